"""Telemetry against NumPy, its cost, and that it changes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.frameworks import TASKS, make_batch, plain
from scipy.optimize import minimize

from mtan_jax.weighting import (
    GRADIENT_METHODS,
    TaskGradients,
    build_weighting,
    equal,
    measure,
    mgda,
    parameter_groups,
    pcgrad,
    sum_tasks,
    task_gradients,
    telemetry,
)

OPTIONS = {"gradnorm": {"weight_rate": 0.025}, "dwa": {"variant": "nash", "window": 1}}


def in_numpy(rows):
    """The measurements of gradients [t, p], in float64."""
    gram = rows @ rows.T
    lengths = np.linalg.norm(rows, axis=1)
    cosines = gram / np.outer(lengths, lengths)
    pairs = np.triu_indices(len(rows), 1)
    values = np.linalg.eigvalsh(gram)
    start = np.full(len(rows), 1 / len(rows))
    constraint = {"type": "eq", "fun": lambda w: w.sum() - 1}
    shortest = minimize(
        lambda w: w @ gram @ w / gram.max(), start, bounds=[(0, 1)] * len(rows), constraints=[constraint], tol=1e-14
    ).x
    return {
        "cosines": cosines,
        "magnitude_similarity": 2 * np.outer(lengths, lengths) / np.add.outer(lengths**2, lengths**2),
        "conflicting": (cosines[pairs] < 0).mean(),
        "condition_number": values[-1] / values[0],
        "stationarity": np.linalg.norm(shortest @ rows),
    }


@pytest.mark.parametrize(("chain", "tasks"), [("sum", 2), ("sum", 3), ("sum", 5), ("mgda", 3)])
def test_measurements_equal_numpy(chain, tasks):
    names = tuple(f"task_{i}" for i in range(tasks))
    rest = optax.chain(equal(names), sum_tasks(names)) if chain == "sum" else mgda(names, shared="all")
    tx = telemetry(names, rest, shared="all")
    for seed in range(5):
        rows = np.random.default_rng(seed).normal(size=(tasks, 12)) * np.linspace(1, 3, tasks)[:, None]
        given = TaskGradients(
            names,
            jnp.ones(tasks),
            jnp.ones(tasks, bool),
            jnp.ones(tasks),
            lambda cotangent, rows=rows: cotangent @ jnp.asarray(rows, jnp.float32),
        )
        _, state = tx.update(given, tx.init(jnp.zeros(12)), jnp.zeros(12))
        found = measure(state)
        for name, expected in in_numpy(rows).items():
            tolerance = 1e-3 if name == "condition_number" else 1e-5
            np.testing.assert_allclose(getattr(found, name), expected, rtol=tolerance, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(found.weights.sum(), tasks if chain == "sum" else 1, rtol=1e-5)


def test_absent_tasks_are_left_out():
    names = ("a", "b", "c")
    rows = np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 1.0]])
    given = TaskGradients(
        names, jnp.ones(3), jnp.array([True, False, True]), jnp.ones(3), lambda c: c @ jnp.asarray(rows, jnp.float32)
    )
    tx = telemetry(names, optax.chain(equal(names), sum_tasks(names)), shared="all")
    found = measure(tx.update(given, tx.init(jnp.zeros(2)), jnp.zeros(2))[1])
    for name, expected in in_numpy(rows[[0, 2]]).items():
        value = np.asarray(getattr(found, name))
        if value.ndim:
            assert np.isnan(value[1]).all()
            assert np.isnan(value[:, 1]).all()
            value = value[np.ix_([0, 2], [0, 2])]
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6, err_msg=name)


def train(spec, wrap, steps=4):
    params, losses_of = plain()
    tx = build_weighting(spec, TASKS, optax.adam(0.01), options={**OPTIONS, "telemetry": wrap or {}})

    @jax.jit
    def step(params, state, batch):
        updates, state = tx.update(task_gradients(lambda p: losses_of(p, batch), params), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for i in range(steps):
        params, state = step(params, state, make_batch(seed=i))
    return params, state


@pytest.mark.parametrize("spec", ["equal", "dwa+pcgrad", "famo", "nash_mtl", "graddrop", "moco"])
def test_it_changes_no_bit_of_the_parameters(spec):
    with_telemetry, state = train(f"telemetry+{spec}", {"every": 2})
    without, _ = train(spec, None)
    jax.tree.map(np.testing.assert_array_equal, with_telemetry, without)
    assert jnp.isfinite(measure(state).stationarity)


def test_every_so_many_steps():
    found = [np.asarray(train("telemetry+equal", {"every": 3}, steps)[1][0].gram) for steps in (1, 2, 3, 4)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert (found[3] != found[0]).all()


def flops(tx, params, losses_of):
    state = tx.init(params)
    step = jax.jit(lambda p, s: tx.update(task_gradients(lambda p: losses_of(p, make_batch()), p), s, p))
    return step.lower(params, state).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("name", ["pcgrad", "moco", "graddrop"])
def test_a_gradient_method_needs_no_further_backward_pass(name):
    params, losses_of = plain()
    method = GRADIENT_METHODS[name](TASKS)
    alone = flops(method, params, losses_of)
    equal_chain = optax.chain(equal(TASKS), sum_tasks(TASKS))
    passes = flops(telemetry(TASKS, equal_chain), params, losses_of) - flops(equal_chain, params, losses_of)
    assert flops(telemetry(TASKS, method), params, losses_of) - alone < 0.5 * passes


def test_the_gram_matrices_of_groups_add_up():
    params, losses_of = plain()
    gradients = task_gradients(lambda p: losses_of(p, make_batch()), params)
    heads = functools.partial(mgda, shared="all")
    groups = parameter_groups(TASKS, groups={"trunk": pcgrad, "heads": heads}, label=lambda path: path[0])
    chains = (telemetry(TASKS, groups), telemetry(TASKS, pcgrad(TASKS, shared="all")))
    states = [tx.update(gradients, tx.init(params), params)[1] for tx in chains]
    np.testing.assert_allclose(states[0].gram, states[1].gram, rtol=1e-5)


def test_messages():
    with pytest.raises(ValueError, match="telemetry every is 0; expected an integer of at least 1"):
        telemetry(TASKS, pcgrad(TASKS), every=0)
    with pytest.raises(ValueError, match="contains 0 states of telemetry; expected one"):
        measure(pcgrad(TASKS).init({}))
