import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtan_jax.weighting import TaskGradients, static, sum_tasks, uncertainty

TASKS = ("a", "b", "c")
START = jnp.array([1.0, -2.0, 0.5, 3.0])
MATRICES = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 4)), jnp.float32)
TARGETS = jnp.asarray(np.random.default_rng(1).normal(size=(3, 6)), jnp.float32)


def losses_of(params):
    """Three least-squares losses of different sizes."""
    return jnp.array([1.0, 20.0, 0.05]) * jnp.mean((MATRICES @ params - TARGETS) ** 2, axis=1)


def trajectory(tx, steps):
    """Parameters and log-variances after each step of the chain."""

    def step(carry, _):
        params, state = carry
        losses, pullback = jax.vjp(losses_of, params)
        gradients = TaskGradients(TASKS, losses, losses > 0, jnp.ones(3), lambda cotangent: pullback(cotangent)[0])
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, optax.tree_utils.tree_get(state, "scales"))

    return jax.lax.scan(step, (START, tx.init(START)), length=steps)[1]


def joint_trajectory(start, network_rate, rate, factors=(1.0, 1.0, 1.0), steps=60):
    """The same by joint minimization of the published objective, with one Adam for all parameters."""

    def objective(params, s):
        return jnp.sum(jnp.array(factors) * losses_of(params) / (2 * jnp.exp(s)) + s / 2)

    labels = ("network", "variances")
    tx = optax.partition({"network": optax.adam(network_rate), "variances": optax.adam(rate)}, labels)

    def step(carry, _):
        both, state = carry
        updates, state = tx.update(jax.grad(objective, argnums=(0, 1))(*both), state, both)
        both = optax.apply_updates(both, updates)
        return (both, state), both

    both = (START, jnp.full(3, start))
    return jax.lax.scan(step, (both, tx.init(both)), length=steps)[1]


@pytest.mark.parametrize(
    ("options", "start", "rate"),
    [
        ({"learning_rate": 0.03}, -0.5, 0.03),
        ({"variant": "nash", "learning_rate": 0.03}, 0.0, 0.025),
        ({"variant": "nash", "initial_log_variance": 1.5, "log_variance_rate": 0.1}, 1.5, 0.1),
        ({"learning_rate": optax.linear_schedule(0.1, 0.0, 40)}, -0.5, optax.linear_schedule(0.1, 0.0, 40)),
    ],
    ids=["mtan", "nash", "own", "scheduled"],
)
def test_parameters_and_log_variances_follow_the_joint_objective(options, start, rate):
    tx = optax.chain(uncertainty(TASKS, **options), sum_tasks(TASKS), optax.adam(0.03))
    params, log_variances = trajectory(tx, 60)
    expected_params, expected = joint_trajectory(start, 0.03, rate)
    assert (np.abs(expected[-1] - start) > 0.2).all()
    # 60 float32 steps of Adam. Seen: 1.2e-7.
    np.testing.assert_allclose(log_variances, expected, atol=2e-6)
    np.testing.assert_allclose(params, expected_params, atol=2e-6)


def test_weights_of_the_methods_before_are_part_of_the_loss():
    factors = (2.0, 0.1, 5.0)
    weights = dict(zip(TASKS, factors, strict=True))
    tx = optax.chain(
        static(TASKS, weights=weights), uncertainty(TASKS, learning_rate=0.03), sum_tasks(TASKS), optax.adam(0.03)
    )
    params, log_variances = trajectory(tx, 60)
    expected_params, expected = joint_trajectory(-0.5, 0.03, 0.03, factors)
    np.testing.assert_allclose(log_variances, expected, atol=1e-5)
    np.testing.assert_allclose(params, expected_params, atol=1e-5)


def test_first_weights_follow_from_the_initial_log_variance(follow):
    for options, start in (({"learning_rate": 0.1}, -0.5), ({"variant": "nash"}, 0.0)):
        factors, _ = follow(uncertainty(TASKS, **options), TASKS, np.ones((1, 3)))
        np.testing.assert_allclose(factors, np.full((1, 3), 1 / (2 * math.exp(start))), rtol=1e-6)


def test_log_variances_converge_to_the_log_of_the_losses(follow):
    losses = np.array([0.1, 1.0, 30.0], np.float32)
    factors, state = follow(uncertainty(TASKS, learning_rate=0.05), TASKS, np.tile(losses, (2000, 1)))
    np.testing.assert_allclose(state.scales, np.log(losses), atol=1e-3)
    np.testing.assert_allclose(factors[-1] * losses, np.full(3, 0.5), rtol=1e-3)


def test_an_absent_task_keeps_its_state(follow):
    """With losses 3, 2, 1 and absences in between, s moves as without the absences."""
    tasks = ("a", "b")
    pauses = np.array([[3.0, 1], [0, 1], [0, 1], [2.0, 1], [0, 1], [1.0, 1]])
    present = pauses > 0
    factors, state = follow(uncertainty(tasks, learning_rate=0.1), tasks, pauses, present)
    expected, straight = follow(uncertainty(("a",), learning_rate=0.1), ("a",), [[3.0], [2.0], [1.0]])
    np.testing.assert_allclose(factors[:, 0], expected[[0, 1, 1, 1, 2, 2], 0], rtol=1e-6)
    np.testing.assert_allclose(state.scales[0], straight.scales[0], rtol=1e-6)
    for leaf, other in zip(jax.tree.leaves(state.adam), jax.tree.leaves(straight.adam), strict=True):
        np.testing.assert_allclose(leaf[0], other[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "uncertainty has no learning rate; variant 'mtan' needs learning_rate or log_variance_rate"),
        ({"variant": "kendall"}, "uncertainty variant is 'kendall'; expected 'mtan' or 'nash'"),
        ({"learning_rate": -1.0}, "uncertainty rate is -1.0; expected a finite number of at least 0"),
        (
            {"variant": "nash", "initial_log_variance": math.inf},
            "log_variance is inf; expected a finite number",
        ),
    ],
)
def test_messages(options, message):
    with pytest.raises(ValueError, match=message):
        uncertainty(TASKS, **options)
