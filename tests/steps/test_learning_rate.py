"""Learning-rate schedules against their formulas."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.config import default_config
from mtan_jax.steps import duration
from mtan_jax.steps.learning_rate import build_schedule


def make_schedule(total_steps=100, **fields):
    config = default_config().optimizer
    for name, value in fields.items():
        config[name] = value
    to_steps = functools.partial(duration.to_steps, epochs_to_steps=lambda epochs: epochs * 3, batch_size=10)
    return build_schedule(config, total_steps, to_steps)


def test_constant_and_cosine():
    assert [float(make_schedule(learning_rate=0.3)(step)) for step in (0, 50, 99)] == pytest.approx([0.3] * 3)
    cosine = make_schedule(learning_rate=0.2, schedule="cosine")
    expected = [0.2 * (1 + math.cos(math.pi * step / 100)) / 2 for step in (0, 25, 50, 99, 100)]
    assert [float(cosine(step)) for step in (0, 25, 50, 99, 100)] == pytest.approx(expected, abs=1e-7)


def test_warmup_grows_to_the_rate_and_the_schedule_begins_then():
    cosine = make_schedule(learning_rate=0.2, schedule="cosine", warmup="20 steps")
    expected = [0.0, 0.05, 0.19, 0.2, 0.1, 0.0]
    assert [float(cosine(step)) for step in (0, 5, 19, 20, 60, 100)] == pytest.approx(expected, abs=1e-7)
    halve = make_schedule(learning_rate=0.2, schedule="halve", halve_every="10 steps", warmup="20 steps")
    assert [float(halve(step)) for step in (10, 20, 29, 30)] == pytest.approx([0.1, 0.2, 0.2, 0.1])


def test_schedules_run_under_jit():
    for schedule in ("constant", "halve", "cosine"):
        made = make_schedule(learning_rate=0.2, schedule=schedule, halve_every="10 steps", warmup="20 steps")
        steps = jnp.arange(0, 100, 7)
        np.testing.assert_allclose(jax.jit(jax.vmap(made))(steps), [made(step) for step in steps], rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "step"}, r"config\.optimizer\.schedule='step' is unknown; known: constant, halve, cosine"),
        ({"learning_rate": 0.0}, r"config\.optimizer\.learning_rate=0\.0; expected a positive finite number"),
        ({"learning_rate": math.inf}, r"config\.optimizer\.learning_rate=inf; expected a positive finite number"),
        ({"learning_rate": math.nan}, r"config\.optimizer\.learning_rate=nan; expected a positive finite number"),
    ],
)
def test_schedule_messages(fields, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(**fields)


def test_pieces_in_another_order():
    pieces = (("30 steps", 0.1), ("20 steps", 0.01))
    with pytest.raises(ValueError, match=r"config\.optimizer\.pieces=.*; expected durations in ascending order"):
        make_schedule(schedule="pieces", pieces=pieces)
    with pytest.raises(ValueError, match=r"pieces contains \('30 steps', 0\.0\); expected a duration and a positive"):
        make_schedule(schedule="pieces", pieces=(("30 steps", 0.0),))
