"""MoDo against TorchJD and LibMTL (tests/reference/make_torchjd.py), and the contracts of a wrapper."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiny_problem, toy_config

from mtan_jax import steps
from mtan_jax.models import Backbone, Numerics
from mtan_jax.runtime import parallel
from mtan_jax.weighting import (
    TaskGradients,
    build_weighting,
    mgda,
    modo,
    needs_of,
    pcgrad,
    static,
    sum_tasks,
    task_weights,
)

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "torchjd.npz"
TASKS = ("semantic", "depth", "normal")


def chain(tasks=TASKS, optimizer=None, **options):
    inner = optax.chain(sum_tasks(tasks), optax.sgd(0.1) if optimizer is None else optimizer)
    return modo(tasks, inner, **{"gamma": 0.05, **options})


def given_gradients(rows, second, present=None, second_present=None):
    """Losses that are linear in the parameters, so that their gradients are the given rows."""
    tasks = tuple(f"task_{i}" for i in range(len(rows)))
    present = jnp.ones(len(rows), bool) if present is None else jnp.asarray(present)
    there = jnp.ones(len(rows), bool) if second_present is None else jnp.asarray(second_present)
    rows, second = rows * present[:, None], second * there[:, None]
    ones = jnp.ones(len(rows), rows.dtype)
    return TaskGradients(
        *(tasks, ones * present, present, ones, lambda cotangent: cotangent @ rows),
        second_losses_at=lambda params: second @ params + there,
    )


def follow(gradients, second, present=None, **options):
    """Updates and weights of all steps, and the last state; gradients are [steps, t, p]."""
    tasks = tuple(f"task_{i}" for i in range(gradients.shape[1]))
    tx = modo(tasks, sum_tasks(tasks), **options)
    params = jnp.zeros(gradients.shape[2])
    present = np.ones(gradients.shape[:2], bool) if present is None else np.asarray(present)

    def step(state, batch):
        update, state = tx.update(given_gradients(*batch), state, params)
        return state, (update, task_weights(state))

    batches = (jnp.asarray(gradients), jnp.asarray(second), present, jnp.ones_like(present))
    state, found = jax.jit(lambda state: jax.lax.scan(step, state, batches))(tx.init(params))
    return *map(np.asarray, found), state


# Values.


@pytest.mark.parametrize("library", ["torchjd", "libmtl"])
@pytest.mark.parametrize("tasks", [2, 3, 10])
def test_published_codes(tasks, library):
    with jax.enable_x64(True), np.load(REFERENCE, allow_pickle=False) as stored:
        gradients, second, expected = (stored[f"{tasks}/{name}"] for name in ("gradients", "second", f"{library}/modo"))
        found, weights, _ = follow(gradients, second, gamma=0.05, rho=0.1)
    assert np.ptp(weights, axis=0).min() > 0.1
    # The weights are float32 between steps. Largest difference seen: 2e-7 of the norm.
    difference = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert difference.max() < 2e-6


def test_the_weights_approach_the_shortest_combination_of_the_mean_gradients():
    """With independent noise in both batches, the step is unbiased; with the same noise in both, it is not."""
    rng = np.random.default_rng(0)
    mean = np.array([[0.4, 0.1, 0.0], [-0.3, 1.0, 0.0], [0.0, 0.5, 1.5]])
    noise = np.array([1.0, 0.1, 0.1])[:, None]  # large for the first task, whose gradient is the shortest
    first, second = (mean + noise * rng.normal(size=(20_000, 3, 3)) for _ in range(2))
    tx = mgda(TASKS, shared=lambda path: True)
    given = TaskGradients(TASKS, jnp.ones(3), jnp.ones(3, bool), jnp.ones(3), lambda cotangent: cotangent @ mean)
    expected = np.asarray(task_weights(tx.update(given, tx.init(jnp.zeros(3)))[1]))
    errors = []
    for other in (second, first):
        weights = follow(first.astype(np.float32), other.astype(np.float32), gamma=2e-3, rho=0.0)[1]
        errors.append(np.abs(weights[5000:].mean(0) - expected).max())
    assert errors[0] < 0.05
    assert errors[1] > 0.2


# Properties of every method.


def test_four_devices_are_one_and_the_state_keeps_its_types(problem):
    tx = chain()
    one, four = problem.train_alone(tx), problem.train(tx, devices=4)
    start = tx.init(problem.params)
    for (params, state), (other_params, other_state) in zip(one, four, strict=True):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), other_params, params)
        np.testing.assert_allclose(other_state.weights, state.weights, rtol=1e-5, atol=1e-6)
        jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or pytest.fail("changed"), state, start)
    assert np.ptp(one[-1][1].weights) > 0.1


def test_resumed_in_the_middle_is_the_same(problem):
    tx = chain()
    straight = problem.train_alone(tx)
    jax.tree.map(np.testing.assert_array_equal, problem.train_alone(tx, start=straight[2], first=3), straight[3:])


def test_order_of_the_tasks_does_not_matter():
    gradients, second = np.random.default_rng(0).normal(size=(2, 8, 4, 6)).astype(np.float32)
    order = [2, 0, 3, 1]
    update, weights, _ = follow(gradients, second, gamma=0.05)
    other_update, other_weights, _ = follow(gradients[:, order], second[:, order], gamma=0.05)
    np.testing.assert_allclose(other_update, update, atol=1e-5)
    np.testing.assert_allclose(other_weights, weights[:, order], atol=1e-6)


def test_one_task_has_the_mean_of_its_gradients():
    gradients, second = np.random.default_rng(0).normal(size=(2, 3, 1, 6)).astype(np.float32)
    update, weights, _ = follow(gradients, second)
    np.testing.assert_allclose(update, (gradients + second)[:, 0] / 2, rtol=1e-5)
    np.testing.assert_allclose(weights, 1, rtol=1e-6)


def test_absent_tasks_have_no_effect_and_keep_their_weights():
    gradients, second = np.random.default_rng(0).normal(size=(2, 2, 3, 6)).astype(np.float32)
    present = np.array([[True, True, True], [True, False, True]])
    update, weights, state = follow(gradients, second, present, gamma=0.05)
    before = follow(gradients[:1], second[:1], gamma=0.05)[2].weights
    assert weights[1, 1] == 0
    assert state.weights[1] == before[1] > 0
    assert weights[1].sum() == pytest.approx(1, abs=1e-6)
    # Absent from the start: as without the task.
    update, weights, _ = follow(gradients[:1], second[:1], present[1:], gamma=0.05)
    others = follow(gradients[:1, ::2], second[:1, ::2], gamma=0.05)
    np.testing.assert_allclose(update, others[0], rtol=1e-5)
    np.testing.assert_allclose(weights[0, ::2], others[1][0], rtol=1e-5)
    # Without any task, nothing moves.
    update, weights, state = follow(gradients, second, np.zeros((2, 3), bool))
    np.testing.assert_array_equal(update, 0)
    np.testing.assert_allclose(state.weights, 1 / 3, rtol=1e-6)


def test_a_task_absent_from_the_second_batch_has_the_gradient_of_the_first():
    rows, second = np.random.default_rng(0).normal(size=(2, 3, 6)).astype(np.float32)
    there, params = np.array([True, False, True]), jnp.zeros(6)
    tx = modo(("task_0", "task_1", "task_2"), sum_tasks(("task_0", "task_1", "task_2")), gamma=0.05)
    update, state = tx.update(given_gradients(rows, second, None, there), tx.init(params), params)
    means = np.where(there[:, None], (rows + second) / 2, rows)
    np.testing.assert_allclose(update, state.weights @ means, rtol=1e-5)
    slope = rows @ (second.T @ (there / 3)) + 0.1 / 3
    point = 1 / 3 - 0.05 * slope
    np.testing.assert_allclose(state.weights, point + (1 - point.sum()) / 3, rtol=1e-5)


def test_gradients_of_any_size_give_finite_weights():
    random = np.random.default_rng(0).normal(size=(2, 4, 3, 6)).astype(np.float32)
    for scale in ([[1e-6]] * 3, [[1e6]] * 3, [[1e-6], [1.0], [1e6]], [[0.0]] * 3):
        update, weights, state = follow(*(random * np.array(scale, np.float32)), gamma=1.0)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((update, weights, state)))
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)


def test_weights_of_the_methods_before_are_part_of_the_losses(problem):
    weights = [2.0, 0.5, 3.0]
    before = static(TASKS, weights=dict(zip(TASKS, weights, strict=True)))

    def scaled(params, scale):
        given = problem.task_gradients(params, {key: value[0] for key, value in problem.batches.items()})
        return TaskGradients(
            *(given.tasks, given.losses * scale, given.present, given.weights),
            lambda cotangent: given.pullback(cotangent * scale),
            second_losses_at=lambda params: given.second_losses_at(params) * scale,
        )

    found = []
    for tx, scale in ((optax.chain(before, chain()), jnp.ones(3)), (chain(), jnp.array(weights))):
        updates, state = jax.jit(lambda p, tx=tx, scale=scale: tx.update(scaled(p, scale), tx.init(p), p))(
            problem.params
        )
        found.append((updates, state[1] if len(state) == 2 and not hasattr(state, "inner") else state))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1].weights, found[1][1].weights, rtol=1e-5)
    np.testing.assert_allclose(task_weights(found[0][1]), found[0][1].weights * np.array(weights), rtol=1e-5)


def test_every_method_may_follow(problem):
    batch = {key: value[0] for key, value in problem.batches.items()}
    tx = build_weighting(("modo", ("pcgrad", {"shared": lambda path: path[0] == "shared"})), TASKS, optax.sgd(0.1))

    def both(params):
        given = problem.task_gradients(params, batch)
        _, pullback = jax.vjp(given.second_losses_at, params)
        mean = lambda c: jax.tree.map(lambda a, b: (a + b) / 2, given.pullback(c), pullback(c)[0])  # noqa: E731
        return TaskGradients(TASKS, given.losses, given.present, given.weights, mean)

    updates, state = jax.jit(lambda p: tx.update(problem.task_gradients(p, batch), tx.init(p), p))(problem.params)
    by_hand = optax.chain(pcgrad(TASKS, shared=lambda path: path[0] == "shared"), optax.sgd(0.1))
    expected, _ = jax.jit(lambda p: by_hand.update(both(p).scale(state[0].weights), by_hand.init(p), p))(problem.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), updates, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0.0}, "modo gamma is 0.0; expected a finite number above 0"),
        ({"rho": -1.0}, "modo rho is -1.0; expected a finite number of at least 0"),
        ({"tasks": ("depth", "depth")}, "without repeats"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        chain(**options)


def test_a_step_without_a_second_batch_or_parameters_is_refused():
    tx = modo(("a",), sum_tasks(("a",)))
    given = TaskGradients(("a",), jnp.ones(1), jnp.ones(1, bool), jnp.ones(1), lambda cotangent: cotangent)
    with pytest.raises(ValueError, match=r"modo learns from a second batch.*under the key 'second'"):
        tx.update(given, tx.init(jnp.zeros(1)), jnp.zeros(1))
    rows = np.ones((1, 2), np.float32)
    tx = modo(("task_0",), sum_tasks(("task_0",)))
    with pytest.raises(ValueError, match="modo needs the parameters"):
        tx.update(given_gradients(rows, rows), tx.init(jnp.zeros(2)))


def test_needs_of_the_chain():
    assert needs_of("static+modo").second_batch
    assert not needs_of("static+mgda").second_batch


# Within the training step.


def plain(axis_name):
    return toy_config.Plain(Backbone({}, None, multiple=1, numerics=Numerics(axis_name)), tiny_problem.TASKS)


def run_step(devices, second=1, accumulate=1):
    """The state after one step, with a second batch of another seed."""
    axis_name = None if devices == 1 else parallel.AXIS
    tx = tiny_problem.make_tx("modo", optax.sgd(0.01), modo={"gamma": 0.1})
    model = plain(axis_name)
    step = steps.make_train_step(
        *(model, tiny_problem.TASKS, tx), key=jax.random.key(0), axis_name=axis_name, accumulate=accumulate
    )
    batch = {**tiny_problem.make_batch(), "second": tiny_problem.make_batch(second)}
    state = jax.device_get(tiny_problem.make_state(model, tx))
    if devices == 1:
        return jax.device_get(jax.jit(step)(state, batch))
    return jax.device_get(parallel.map_train_step(step)(state, parallel.place_batch(batch)))


def test_the_step_is_the_same_on_one_and_four_devices():
    one, four = run_step(1), run_step(4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), four.params, one.params)
    np.testing.assert_allclose(four.window.weights, one.window.weights, rtol=1e-5)
    assert np.ptp(one.window.weights) > 0.001
    changed = run_step(1, second=2)
    assert np.abs(changed.window.weights - one.window.weights).max() > 1e-4  # the second batch matters
    np.testing.assert_array_equal(changed.window.loss_total, one.window.loss_total)


@pytest.mark.long
def test_the_step_with_gradient_accumulation():
    """The normalization of the parts differs, so the numbers are near those of the whole batch."""
    one, parts = run_step(1), run_step(1, accumulate=2)
    np.testing.assert_allclose(parts.window.weights, one.window.weights, atol=0.02)
    assert int(parts.window.bad_step) == 0
