"""SoftAdapt and ReLoBRaLo, against their authors' codes (tests/reference/make_adaptive.py) and by hand."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.weighting import TaskGradients, relobralo, softadapt
from mtan_jax.weighting.balancers.relobralo import rebalance
from mtan_jax.weighting.balancers.softadapt import forward_difference

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "adaptive.npz"
each_count = pytest.mark.parametrize("tasks", [2, 3, 10])
each_variant = pytest.mark.parametrize("variant", ["plain", "loss_weighted", "normalized"])


@functools.cache
def stored():
    with np.load(REFERENCE, allow_pickle=False) as arrays:
        return dict(arrays)


def names(count):
    return tuple(f"task_{i}" for i in range(count))


@each_count
@each_variant
def test_the_code_of_softadapt(variant, tasks, follow):
    for points in (2, 5, 6):
        weights, _ = follow(
            softadapt(names(tasks), variant=variant, beta=0.7, points=points), names(tasks), stored()[f"{tasks}/losses"]
        )
        np.testing.assert_array_equal(weights[: points - 1], 1)
        # Float32 against float64; seen 6e-6, because the sum of the slopes, a divisor, nearly cancels, and 2e-7.
        bound = 5e-5 if variant == "normalized" else 2e-6
        expected = stored()[f"{tasks}/softadapt/{variant}/{points}"]
        np.testing.assert_allclose(weights[points - 1 :], expected, atol=bound)


@pytest.mark.parametrize("order", [1, 2, 3, 5, 8])
def test_forward_differences_are_exact_for_polynomials(order):
    powers = np.arange(order + 1)
    slopes = [forward_difference(order) @ np.arange(order + 1.0) ** power for power in powers]
    np.testing.assert_allclose(slopes, powers == 1, atol=1e-6)


def test_points_are_means_over_steps(follow):
    """Two steps per point; the second task is absent at one of them."""
    losses = np.array([[1, 2, 3], [3, 0, 3], [5, 4, 3], [7, 8, 3], [0, 9, 9]], np.float32)
    present = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 1], [0, 1, 1]], bool)
    tx = softadapt(names(3), variant="plain", beta=0.5, points=2, steps_per_point=2)
    weights, state = follow(tx, names(3), losses, present)
    np.testing.assert_array_equal(weights[:3], present[:3])
    np.testing.assert_array_equal(state.history, [[2, 2, 3], [6, 6, 3]])
    exponentials = np.exp(0.5 * np.array([4, 4, 0]))
    np.testing.assert_allclose(weights[3], exponentials / exponentials.sum(), rtol=1e-6)
    np.testing.assert_allclose(weights[4], [0, *(exponentials / exponentials[1:].sum())[1:]], rtol=1e-6)


def test_losses_that_do_not_change_have_equal_weights(follow):
    weights, _ = follow(softadapt(names(3), variant="normalized"), names(3), np.tile([1.0, 2.0, 3.0], (6, 1)))
    np.testing.assert_allclose(weights[5], 1 / 3, rtol=1e-5)


@each_count
def test_the_code_of_relobralo(tasks):
    """Its rule with the stored random choices, in float64."""
    with jax.enable_x64(True):
        step, present = jax.jit(rebalance), jnp.ones(tasks, bool)
        start = relobralo(names(tasks)).init(None)
        state = jax.tree.map(lambda leaf: leaf.astype(float) if leaf.dtype == jnp.float32 else leaf, start)
        for losses, keeps, expected in zip(
            *(stored()[f"{tasks}/{name}"] for name in ("losses", "keeps", "relobralo")), strict=True
        ):
            state = step(state, jnp.asarray(losses), present, keeps, 0.9, 0.8)
            np.testing.assert_allclose(state.weights, expected, rtol=1e-9)


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_relobralo_is_its_rule(rho, follow):
    """In float32, with absent tasks, and without randomness: every step or no step looks back."""
    losses = stored()["3/losses"].astype(np.float32)
    present = np.random.default_rng(0).random(losses.shape) < 0.8
    weights, state = follow(
        relobralo(names(3), alpha=0.9, temperature=0.8, rho=rho), names(3), losses * present, present
    )
    seen, first, last, now = np.zeros(3), np.ones(3), np.ones(3), np.ones(3)
    for row, there, found in zip(losses, present, weights, strict=True):
        balance = [np.exp(row / earlier / 0.8) * there for earlier in (first, last)]
        start, recent = (there.sum() * value / value.sum() for value in balance)
        new = 0.9 * (now if rho else start) + 0.1 * recent
        now = np.where(there, np.select([seen == 0, seen == 1], [1, recent], new), now)
        np.testing.assert_allclose(found, now * there, rtol=1e-5)
        first, last = np.where(there & (seen < 2), row, first), np.where(there, row, last)
        seen += there
    np.testing.assert_allclose(state.first, first)


def test_relobralo_looks_back_at_random(follow):
    losses = np.exp(np.cumsum(np.random.default_rng(0).normal(scale=0.02, size=(1000, 2)), 0))
    runs = [follow(relobralo(names(2), alpha=1.0, rho=0.9, seed=seed), names(2), losses)[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()
    # With alpha = 1 the weights change only at a lookback: 998 steps with probability 0.1, within five standard errors.
    looks = (np.diff(runs[0][1:], axis=0) != 0).any(1).sum()
    assert abs(looks - 99.8) < 5 * np.sqrt(998 * 0.1 * 0.9)


def test_weights_of_the_methods_before_are_part_of_the_losses_of_relobralo(follow):
    losses, factors = stored()["3/losses"].astype(np.float32), np.array([1.0, 2.0, 3.0], np.float32)
    tx = relobralo(names(3))
    state = tx.init(None)
    for row in losses[:3]:
        given = TaskGradients(names(3), jnp.asarray(row), jnp.ones(3, bool), jnp.asarray(factors), lambda c: c)
        _, state = tx.update(given, state)
    np.testing.assert_allclose(state.last, losses[2] * factors)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (softadapt, {"variant": "original"}, "softadapt variant is 'original'; expected 'plain', 'loss_weighted' or "),
        (softadapt, {"beta": "1"}, "softadapt beta is '1'; expected a finite number"),
        (softadapt, {"points": 1}, "softadapt points is 1; expected an integer of at least 2"),
        (softadapt, {"steps_per_point": 0}, "softadapt steps_per_point is 0; expected an integer of at least 1"),
        (relobralo, {"alpha": 1.5}, "relobralo alpha is 1.5; expected a number from 0 to 1"),
        (relobralo, {"temperature": 0.0}, "relobralo temperature is 0.0; expected a finite number above 0"),
        (relobralo, {"rho": -0.1}, "relobralo rho is -0.1; expected a number from 0 to 1"),
    ],
)
def test_bad_options(method, options, message):
    with pytest.raises(ValueError, match=message):
        method(names(2), **options)
