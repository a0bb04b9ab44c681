"""Balancers with a one-line total loss, against the derivative of that loss, or against their distribution."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.weighting import TaskGradients, dwa, geometric, imtl_l, rlw, scale_invariant, stch, uncertainty

REFERENCE = pathlib.Path(__file__).parents[2] / "reference"

TASKS = ("semantic", "depth", "normal")
TOTALS = {
    geometric: lambda losses: jnp.prod(losses) ** (1 / 3),
    scale_invariant: lambda losses: jnp.log(losses).sum(),
}


@pytest.mark.parametrize("method", TOTALS)
def test_weights_are_the_derivative_of_the_total_loss(method, follow):
    losses = np.random.default_rng(0).uniform(0.1, 3, (5, 3)).astype(np.float32)
    factors, _ = follow(method(TASKS), TASKS, losses)
    np.testing.assert_allclose(factors, jax.vmap(jax.grad(TOTALS[method]))(losses), rtol=1e-5)


@pytest.mark.parametrize(
    "tasks", [pytest.param(2, marks=pytest.mark.long), 3, pytest.param(10, marks=pytest.mark.long)]
)
def test_published_codes(tasks, follow):
    """Weights of 24 steps, from tests/reference/make_losses.py."""
    names = tuple(f"task_{i}" for i in range(tasks))
    with np.load(REFERENCE / "losses.npz", allow_pickle=False) as stored:
        losses = stored[f"{tasks}/losses"]
        for tx, name in (
            (geometric(names), "gls"),
            (stch(names, steps_per_epoch=4, mu=0.7, warmup_epochs=1), "stch"),
            (imtl_l(names, scale_rate=0.05), "imtl_l"),
            (dwa(names, steps_per_epoch=4), "dwa"),
            (dwa(names, variant="nash", window=5), "famo/dwa"),
            (uncertainty(names, log_variance_rate=0.05), "uw"),
            (uncertainty(names, variant="nash"), "famo/uw"),
            (scale_invariant(names), "famo/scale_invariant"),
        ):
            np.testing.assert_allclose(follow(tx, names, losses)[0], stored[f"{tasks}/{name}"], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "stch has no steps_per_epoch; it needs the length of an epoch in steps, or preferences"),
        ({"preferences": {"depth": 1.0}}, r"stch preferences: missing \['normal', 'semantic'\], unknown"),
        ({"steps_per_epoch": 0}, "stch steps_per_epoch is 0; expected an integer of at least 1"),
        ({"steps_per_epoch": 1, "mu": 0.0}, "stch mu is 0.0; expected a finite number above 0"),
        ({"steps_per_epoch": 1, "warmup_epochs": -1}, "stch warmup_epochs is -1; expected an integer of at least 0"),
    ],
)
def test_bad_options_of_stch(options, message):
    with pytest.raises(ValueError, match=message):
        stch(TASKS, **options)


@pytest.mark.parametrize("mu", [0.1, 2.0])
def test_stch_with_preferences_is_the_derivative_of_the_smooth_maximum(mu, follow):
    losses, r = np.random.default_rng(0).uniform(0.1, 3, (5, 3)).astype(np.float32), np.array([0.5, 1.0, 2.0])
    total = lambda row: mu * jnp.log(jnp.exp(row * r.astype(np.float32) / mu).sum())  # noqa: E731
    expected = jax.vmap(jax.grad(total))(losses)
    for given in (r, dict(zip(TASKS, map(float, r), strict=True))):
        np.testing.assert_allclose(follow(stch(TASKS, mu=mu, preferences=given), TASKS, losses)[0], expected, rtol=1e-4)


@pytest.mark.parametrize("method", TOTALS)
def test_an_absent_task_has_no_effect(method, follow):
    losses = np.array([[0.5, 0.0, 2.0]], np.float32)
    factors, _ = follow(method(TASKS), TASKS, losses, present=[[True, False, True]])
    others, _ = follow(method(TASKS[::2]), TASKS[::2], losses[:, ::2])
    np.testing.assert_allclose(factors[0], [others[0, 0], 0, others[0, 1]], rtol=1e-6)


@pytest.mark.parametrize("method", TOTALS)
def test_weights_of_the_methods_before_are_part_of_the_loss(method):
    given = TaskGradients(TASKS, jnp.array([0.5, 1.0, 2.0]), jnp.ones(3, bool), jnp.array([1.0, 3.0, 0.2]), None)
    found, _ = method(TASKS).update(given, method(TASKS).init(None))
    expected = jax.grad(lambda losses: TOTALS[method](losses * given.weights))(given.losses)
    np.testing.assert_allclose(found.weights, expected, rtol=1e-5)


@pytest.mark.parametrize("distribution", ["normal", "dirichlet"])
def test_random_weights(distribution, follow):
    steps = 2000
    weights, _ = follow(rlw(TASKS, distribution=distribution), TASKS, np.ones((steps, 3)))
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    assert len(np.unique(weights[:, 0])) == steps
    # Five standard errors of the mean. The standard deviation of a flat Dirichlet weight is sqrt(1/18).
    np.testing.assert_allclose(weights.mean(0), 1 / 3, atol=5 * weights.std() / np.sqrt(steps))
    if distribution == "dirichlet":
        assert weights.std() == pytest.approx(np.sqrt(1 / 18), rel=0.05)
    else:  # logarithms of ratios are differences of two normal variables
        assert np.log(weights[:, 0] / weights[:, 1]).std() == pytest.approx(np.sqrt(2), rel=0.05)
    other, _ = follow(rlw(TASKS, distribution=distribution, seed=1), TASKS, np.ones((3, 3)))
    assert (other != weights[:3]).all()


def test_unknown_distribution():
    with pytest.raises(ValueError, match="rlw distribution is 'uniform'; expected 'normal' or 'dirichlet'"):
        rlw(TASKS, distribution="uniform")
