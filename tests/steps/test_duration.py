"""Lengths of training."""

import pytest

from mtan_jax.steps.duration import to_steps


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("30000 steps", 30_000),
        ("1 step", 1),
        ("200 epochs", 79_500),  # 200 * 795 / 2
        ("1 epoch", 398),  # 397.5
        ("0.5 epochs", 199),  # 198.75
        ("1e6 examples", 500_000),
        ("3 examples", 2),
        ("1 example", 1),
        ("0.001 epochs", 1),
        (" 7   steps ", 7),
    ],
)
def test_nyuv2_in_batches_of_2(text, steps):
    assert to_steps(text, epochs_to_steps=lambda epochs: epochs * 795 / 2, batch_size=2) == steps


@pytest.mark.parametrize("text", ["", "200", "epochs", "200 hours", "0 steps", "-1 epochs", "nan steps", "inf steps"])
def test_messages(text):
    with pytest.raises(ValueError, match=rf"^duration '{text}': expected a positive number and a unit.*'200 epochs'"):
        to_steps(text, epochs_to_steps=lambda epochs: epochs * 795 / 2, batch_size=2)
