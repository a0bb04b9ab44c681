import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtan_jax.weighting import TaskGradients, dwa, schedule, static, sum_tasks, task_weights

TASKS = ("a", "b")


def quadratic(params, tasks=TASKS, weights=None):
    """Losses p0^2 and p1^2."""
    losses, pullback = jax.vjp(jnp.square, params)
    weights = jnp.ones(2) if weights is None else weights
    return TaskGradients(tasks, losses, losses > 0, weights, lambda cotangent: pullback(cotangent)[0])


def single_device_gradient(problem, step, weights):
    """The gradient of the weighted sum over the whole batch, written without any psum."""
    batch = {key: value[step] for key, value in problem.batches.items()}

    def total(params):
        sums, _ = problem.sums(params, batch)
        return sum(weights[i] * sums[i] / max(int(batch["labelled"][:, i].sum()), 1) for i in range(3))

    return jax.grad(total)(problem.params)


def largest_difference(tree, other):
    """Largest difference over the largest entry."""
    tree, other = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(t)]) for t in (tree, other))
    return np.abs(tree - other).max() / np.abs(other).max()


def split(batch, devices=4):
    return {key: value.reshape(devices, -1, *value.shape[1:]) for key, value in batch.items()}


def over_devices(function, problem, step):
    """`function(task_gradients)` under pmap over 4 devices with the batch of a step."""
    batch = split({key: value[step] for key, value in problem.batches.items()})
    run = jax.pmap(
        lambda params, batch: function(problem.task_gradients(params, batch, "devices")),
        "devices",
        in_axes=(None, 0),
        out_axes=None,
    )
    return run(problem.params, batch)


@pytest.mark.parametrize("step", [0, 2])
def test_gradient_on_four_devices_equals_that_on_one(problem, step):
    weights = np.array([0.3, 2.0, 1.5], np.float32)
    tx = optax.chain(
        static(problem.tasks, weights=dict(zip(problem.tasks, weights, strict=True))), sum_tasks(problem.tasks)
    )
    gradient = over_devices(lambda gradients: tx.update(gradients, tx.init(None))[0], problem, step)
    # Sums of 8 examples in another order: a few units of 6e-8. Seen: 3.7e-7 at most over six steps.
    assert largest_difference(gradient, single_device_gradient(problem, step, weights)) < 1e-6


def test_the_mean_of_per_device_losses_has_another_gradient(problem):
    """On this problem the test above fails if each device divides by its own count."""
    batches = split({key: value[0] for key, value in problem.batches.items()})

    def own(params, batch):
        sums, counts = problem.sums(params, batch)
        return (sums / jnp.maximum(counts, 1)).sum()

    gradients = jax.vmap(jax.grad(own), in_axes=(None, 0))(problem.params, batches)
    mean = jax.tree.map(lambda leaf: leaf.mean(0), gradients)
    assert largest_difference(mean, single_device_gradient(problem, 0, np.ones(3))) > 0.05


@pytest.mark.parametrize("stack", [jax.vmap, lambda f: lambda rows: jax.lax.map(f, rows)], ids=["vmap", "map"])
def test_gradients_of_single_tasks_over_four_devices(problem, stack):
    """Each row is one task's gradient of the global loss, as gradient methods need."""
    rows = over_devices(lambda gradients: stack(gradients.gradient)(jnp.diag(gradients.weights)), problem, 0)
    for i in range(3):
        row = jax.tree.map(lambda leaf, i=i: leaf[i], rows)
        assert largest_difference(row, single_device_gradient(problem, 0, np.eye(3)[i])) < 1e-6


class LookAheadState(NamedTuple):
    losses_after: jax.Array
    inner: optax.OptState


def look_ahead(tasks, inner):
    """A wrapper that weights by 1 / the losses after the last step."""

    def init(params):
        return LookAheadState(jnp.ones(len(tasks)), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        scaled = updates.scale(1 / state.losses_after)
        new_params, inner_state = inner.update(scaled, state.inner, params, **extra_args)
        losses_after = updates.losses_at(optax.apply_updates(params, new_params))
        return new_params, LookAheadState(losses_after, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def test_a_method_may_wrap_the_rest_of_the_chain(problem):
    rest = optax.chain(
        static(problem.tasks, weights=dict.fromkeys(problem.tasks, 2.0)), sum_tasks(problem.tasks), optax.sgd(0.01)
    )
    tx = look_ahead(problem.tasks, rest)
    history = problem.train(tx, devices=4)
    for step in (0, 3):
        params, opt_state = history[step]
        batch = {key: value[step] for key, value in problem.batches.items()}
        sums, counts = problem.sums(params, batch)
        np.testing.assert_allclose(opt_state.losses_after, sums / counts, rtol=1e-5)
    np.testing.assert_allclose(task_weights(history[0][1]), [2, 2, 2])
    np.testing.assert_allclose(task_weights(history[1][1]), 2 / history[0][1].losses_after, rtol=1e-6)


def test_a_method_may_replace_sum_tasks(problem):
    """The mean of the normalized task gradients, which does not depend on the scale of any loss."""

    def normalised(tasks):
        def update(updates, state, params=None, **extra_args):
            stacked = jax.vmap(updates.gradient)(jnp.diag(updates.weights))
            norms = jax.vmap(optax.tree.norm)(stacked)
            gradient = jax.tree.map(lambda leaf: jnp.tensordot(1 / norms, leaf, 1), stacked)
            return gradient, type(state)(updates.weights)

        return optax.GradientTransformationExtraArgs(sum_tasks(tasks).init, update)

    batch = {key: value[0] for key, value in problem.batches.items()}
    gradients = problem.task_gradients(problem.params, batch)
    expected, _ = (tx := normalised(problem.tasks)).update(gradients, tx.init(None))
    weights = dict(zip(problem.tasks, (5.0, 0.1, 3.0), strict=True))
    tx = optax.chain(dwa(problem.tasks, steps_per_epoch=3), static(problem.tasks, weights=weights), tx)
    gradient, opt_state = tx.update(gradients, tx.init(problem.params))
    assert largest_difference(gradient, expected) < 1e-5
    np.testing.assert_allclose(task_weights(opt_state), [5.0, 0.1, 3.0], rtol=1e-6)


def test_weights_of_several_methods_multiply_and_task_weights_reads_the_product():
    tx = optax.chain(
        static(TASKS, weights={"a": 3.0, "b": 0.5}),
        schedule(TASKS, weights={"a": lambda step: 10.0 + step, "b": 4.0}),
        sum_tasks(TASKS),
        optax.clip_by_global_norm(1e9),
        optax.sgd(1.0),
    )
    params = jnp.array([1.0, 3.0])
    opt_state = tx.init(params)
    np.testing.assert_array_equal(task_weights(opt_state), [1, 1])
    updates, opt_state = jax.jit(lambda params, state: tx.update(quadratic(params), state, params))(params, opt_state)
    np.testing.assert_allclose(task_weights(opt_state), [30, 2])
    np.testing.assert_allclose(optax.tree_utils.tree_get(opt_state, "task_weights"), [30, 2])
    np.testing.assert_allclose(updates, [-60, -12])
    _, opt_state = tx.update(quadratic(params), opt_state, params)
    np.testing.assert_allclose(task_weights((opt_state, None)), [33, 2])


def test_task_weights_needs_exactly_one_field():
    adam = optax.adam(1e-4).init(jnp.zeros(2))
    with pytest.raises(ValueError, match=r"found 0 fields task_weights.*exactly once"):
        task_weights(adam)
    state = sum_tasks(TASKS).init(None)
    with pytest.raises(ValueError, match="found 2 fields"):
        task_weights((state, state))


def test_messages():
    params = jnp.array([1.0, 3.0])
    tx = sum_tasks(TASKS)
    with pytest.raises(TypeError, match=r"sum_tasks got .* instead of TaskGradients\. Pass the result of task_grad"):
        tx.update(params, tx.init(params))
    with pytest.raises(TypeError, match=r"static got .* instead of TaskGradients"):
        static(TASKS, weights={"a": 1, "b": 1}).update({"kernel": params}, optax.EmptyState())
    with pytest.raises(ValueError, match=r"built for the tasks \('a', 'b'\) but got \('b', 'c'\)"):
        tx.update(quadratic(params, tasks=("b", "c")), tx.init(params))
    with pytest.raises(ValueError, match=r"factors have shape \(1,\); expected one per task, \(2,\)"):
        quadratic(params).scale(jnp.ones(1))
    raw = dataclasses.replace(quadratic(params), pullback=jax.vjp(jnp.square, params)[1])
    with pytest.raises(
        TypeError,
        match=r"the gradient, tuple, does not have the structure of .* tuple of one",
    ):
        tx.update(raw, tx.init(params), params)
    for tasks in ((), ("a", "a"), "ab"):
        with pytest.raises(ValueError, match="at least one name, without repeats"):
            sum_tasks(tasks)
