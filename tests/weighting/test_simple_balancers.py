"""Balancers whose weights follow from one line: against the derivative of that line, or their distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.weighting import TaskGradients, geometric, rlw, scale_invariant

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


@pytest.mark.parametrize("method", TOTALS)
def test_an_absent_task_takes_no_part(method, follow):
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
    # Five standard deviations of a mean of so many; that of a flat Dirichlet weight is sqrt(1/18).
    np.testing.assert_allclose(weights.mean(0), 1 / 3, atol=5 * weights.std() / np.sqrt(steps))
    if distribution == "dirichlet":
        assert weights.std() == pytest.approx(np.sqrt(1 / 18), rel=0.05)
    else:  # logarithms of ratios are differences of two normal numbers
        assert np.log(weights[:, 0] / weights[:, 1]).std() == pytest.approx(np.sqrt(2), rel=0.05)
    other, _ = follow(rlw(TASKS, distribution=distribution, seed=1), TASKS, np.ones((3, 3)))
    assert (other != weights[:3]).all()


def test_unknown_distribution():
    with pytest.raises(ValueError, match="rlw distribution is 'uniform': 'normal' or 'dirichlet'"):
        rlw(TASKS, distribution="uniform")
