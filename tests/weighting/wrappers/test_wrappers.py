"""FAMO against its authors' code, and the contracts of a wrapper."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.weighting_problem import Problem

from mtan_jax.weighting import (
    TaskGradients,
    auto_lambda,
    build_weighting,
    dwa,
    famo,
    pcgrad,
    sum_tasks,
    task_weights,
    telemetry,
)

# From tests/reference/make_losses.py.
REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "losses.npz"


def step_of(tx, tasks):
    """One step with given losses before and after it."""

    @jax.jit
    def step(state, losses, after, present):
        given = TaskGradients(tasks, losses, present, jnp.ones_like(losses), lambda c: c, lambda params: after)
        return tx.update(given, state, jnp.zeros(len(tasks)))

    return step


def follow_famo(losses, after, present=None, **options):
    tasks = tuple(f"task_{i}" for i in range(losses.shape[1]))
    tx = famo(tasks, optax.chain(sum_tasks(tasks), optax.scale(-1)), **options)
    step, state, found = step_of(tx, tasks), tx.init(jnp.zeros(len(tasks))), []
    present = np.ones(losses.shape, bool) if present is None else present
    for row in zip(losses, after, present, strict=True):
        _, state = step(state, *map(jnp.asarray, row))
        found.append(task_weights(state))
    return np.stack(found), state


@pytest.mark.parametrize("tasks", [2, 3, 10])
def test_numbers_of_the_authors(tasks):
    with np.load(REFERENCE, allow_pickle=False) as stored:
        losses, after, expected = (stored[f"{tasks}/{name}"].astype(np.float32) for name in ("losses", "after", "famo"))
    found, _ = follow_famo(losses, after, decay=0.01)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_all_losses_of_one_task_and_of_none():
    losses = np.array([[2.0, 1.0, 4.0]] * 3, np.float32)
    present = np.array([[True, False, True], [False] * 3, [True] * 3])
    found, state = follow_famo(losses * present, 0.9 * losses * present, present)
    np.testing.assert_allclose(found[0], [2 / 3, 0, 1 / 3], rtol=1e-6)
    np.testing.assert_array_equal(found[1], 0)
    assert np.isfinite(found).all()
    assert state.logits[1] == 0  # moved at the last step only, where all losses fell equally
    one, _ = follow_famo(losses[:, :1], losses[:, :1])
    np.testing.assert_allclose(one, 1)


def test_order_of_the_tasks_does_not_matter():
    losses = np.random.default_rng(0).uniform(0.1, 3, (8, 3)).astype(np.float32)
    after = losses * np.random.default_rng(1).uniform(0.5, 1.2, losses.shape).astype(np.float32)
    order = [2, 0, 1]
    np.testing.assert_allclose(
        follow_famo(losses[:, order], after[:, order])[0], follow_famo(losses, after)[0][:, order], rtol=1e-5
    )


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_losses_of_any_size_and_below_the_least_give_finite_weights(scale):
    losses = scale * np.array([[1.0, 0.0, 1e-6], [1e-6, 1.0, 1.0]], np.float32)
    for least in (None, dict.fromkeys(("task_0", "task_1", "task_2"), 0.5)):
        found, state = follow_famo(losses, losses[::-1], least_losses=least)
        assert np.isfinite(found).all()
        assert (found >= 0).all()
        assert np.isfinite(state.logits).all()


def chains():
    tasks = Problem.tasks
    shared = {"shared": lambda path: path[0] == "shared"}
    return {
        "famo": famo(tasks, optax.chain(sum_tasks(tasks), optax.adam(0.01))),
        "dwa+famo+pcgrad": optax.chain(
            dwa(tasks, steps_per_epoch=2), famo(tasks, optax.chain(pcgrad(tasks, **shared), optax.adam(0.01)))
        ),
    }


@pytest.mark.parametrize("name", chains())
def test_scan_on_one_device_is_pmap_on_four(name, problem):
    tx = chains()[name]

    def step(carry, batch):
        params, state = carry
        updates, state = tx.update(problem.task_gradients(params, batch), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, task_weights(state))

    start = (problem.params, tx.init(problem.params))
    _, one = jax.jit(lambda carry: jax.lax.scan(step, carry, problem.batches))(start)
    assert len(np.unique(np.asarray(one[1])[:, 0])) > 3  # the weights change
    for i, (params, state) in enumerate(problem.train(tx, devices=4)):
        np.testing.assert_allclose(task_weights(state), one[1][i], rtol=5e-5)
        for key in params:
            np.testing.assert_allclose(params[key], one[0][key][i], atol=2e-5)


def test_losses_after_the_step_are_those_at_the_new_parameters(problem):
    """The logits follow from the losses after a step of the whole chain."""
    tx, batch = chains()["famo"], {key: value[0] for key, value in problem.batches.items()}

    @jax.jit
    def run(params):
        given = problem.task_gradients(params, batch)
        updates, state = tx.update(given, tx.init(params), params)
        return updates, state, given.losses

    updates, state, losses = run(problem.params)
    after = problem.task_gradients(optax.apply_updates(problem.params, updates), batch).losses
    fall = np.log(losses) - np.log(after)
    slope = (fall - fall.mean()) / 3
    np.testing.assert_allclose(state.logits, -0.025 * np.sign(slope), rtol=1e-3)  # Adam's first step


def test_resumed_in_the_middle_is_the_same(problem):
    tx = chains()["famo"]

    @jax.jit
    def step(params, state, batch):
        updates, state = tx.update(problem.task_gradients(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    def run(params, state, steps):
        for i in steps:
            params, state = step(params, state, {key: value[i] for key, value in problem.batches.items()})
        return params, state

    straight = run(problem.params, tx.init(problem.params), range(6))
    half = jax.device_get(run(problem.params, tx.init(problem.params), range(3)))
    jax.tree.map(np.testing.assert_array_equal, run(*half, range(3, 6)), straight)
    compiled = step._cache_size()
    run(*straight, range(6))
    assert step._cache_size() == compiled


def test_build_weighting_passes_the_rest_of_the_chain_as_inner(problem):
    tasks = Problem.tasks
    params = problem.params
    for spec in ("dwa+famo", "famo+dwa", "static+famo+nash_mtl"):
        options = {
            "static": {"weights": dict.fromkeys(tasks, 2.0)},
            "nash_mtl": {"shared": lambda path: path[0] == "shared"},
        }
        tx = build_weighting(spec, tasks, optax.sgd(0.1), options=options, defaults={"steps_per_epoch": 2})
        batch = {key: value[0] for key, value in problem.batches.items()}
        updates, state = jax.eval_shape(
            lambda tx=tx, batch=batch: tx.update(problem.task_gradients(params, batch), tx.init(params), params)
        )
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        assert task_weights(state).shape == (3,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_rate": -1.0}, "famo weight_rate is -1.0; expected a finite number of at least 0"),
        ({"decay": float("nan")}, "famo decay is nan"),
        ({"least_losses": {"a": 0.0}}, r"famo least_losses: missing \['b'\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        famo(("a", "b"), optax.identity(), **options)


@pytest.mark.parametrize("make", [famo, functools.partial(auto_lambda, learning_rate=0.1)])
@pytest.mark.parametrize(
    "inner",
    [
        sum_tasks(("a", "b")),
        pcgrad(("a", "b"), shared="all"),
        optax.chain(dwa(("a", "b"), steps_per_epoch=1), sum_tasks(("a", "b"))),
        telemetry(("a", "b"), sum_tasks(("a", "b"))),
    ],
    ids=["sum_tasks", "pcgrad", "chain", "telemetry"],
)
def test_a_chain_without_an_optimizer_inside_is_refused(make, inner):
    """The losses would be evaluated at the parameters plus the gradient."""
    with pytest.raises(ValueError, match=r"ends with sum_tasks or a gradient method; put the optimizer inside"):
        make(("a", "b"), inner).init(jnp.zeros(2))
    make(("a", "b"), optax.chain(inner, optax.sgd(0.1))).init(jnp.zeros(2))


def test_a_step_without_losses_at_other_parameters_is_refused():
    tx = famo(("a",), optax.chain(sum_tasks(("a",)), optax.scale(-1)))
    given = TaskGradients(("a",), jnp.ones(1), jnp.ones(1, bool), jnp.ones(1), lambda c: c)
    with pytest.raises(ValueError, match="famo needs the parameters"):
        tx.update(given, tx.init(jnp.zeros(1)), jnp.zeros(1))
