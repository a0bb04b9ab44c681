"""LDC-MTL against the authors' code (tests/reference/make_ldc_mtl.py)."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.weighting import TaskGradients, ldc_mtl

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "ldc_mtl.npz"
TASKS = ("semantic", "depth", "normal")


def follow_in_float64(tx, tasks, losses, first):
    """The factors at each step, for losses in float64, after a step with the losses `first`; the state is float32."""

    @jax.jit
    def step(losses, state):
        ones = jnp.ones_like(losses)
        given, state = tx.update(TaskGradients(tasks, losses, ones > 0, ones, lambda cotangent: cotangent), state)
        return given.weights, state

    state, found = tx.init(None)._replace(first=jnp.asarray(first, jnp.float32)), []
    for row in losses:
        weights, state = step(jnp.asarray(row), state)
        found.append(weights)
    return np.stack(found)


@pytest.mark.parametrize(("normalize", "penalty"), [("none", 0.02), ("log", 0.05), ("initial", 0.05)])
@pytest.mark.parametrize("tasks", [2, 3, 10])
def test_the_authors_code(tasks, normalize, penalty):
    names = tuple(f"task_{i}" for i in range(tasks))
    with jax.enable_x64(True), np.load(REFERENCE, allow_pickle=False) as stored:
        losses, expected = stored[f"{tasks}/losses"], stored[f"{tasks}/{normalize}"]
        tx = ldc_mtl(names, penalty=penalty, normalize=normalize, logit_rate=0.1)
        found = follow_in_float64(tx, names, losses, stored[f"{tasks}/first"])
    assert np.ptp(expected, axis=0).min() > 0.01 / tasks
    # The state is float32. Largest difference seen: 7.3e-8 of the largest weight.
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("normalize", ["none", "initial", "log"])
def test_an_absent_task_keeps_its_state_and_has_no_effect(normalize, follow):
    """The tasks beside an absent one are neighbors."""
    losses = np.array([[0.5, 0.0, 2.0], [0.4, 0.0, 1.5], [0.3, 1.0, 1.5]], np.float32)
    options = {"normalize": normalize, "penalty": 0.1, "learning_rate": 0.1}
    tx, pair = ldc_mtl(TASKS, **options), TASKS[::2]
    factors, state = follow(tx, TASKS, losses[:2], losses[:2] > 0)
    others, _ = follow(ldc_mtl(pair, **options), pair, losses[:2, ::2])
    np.testing.assert_allclose(factors[:, ::2], others, rtol=1e-5)
    np.testing.assert_array_equal(factors[:, 1], 0)
    assert (state.logits[1], state.adam.count[1], state.first[1]) == (1, 0, 0)
    _, later = follow(tx, TASKS, losses[2:], state=state)
    np.testing.assert_array_equal(later.adam.count, [3, 1, 3])
    assert later.first[1] == 1
    factors, last = follow(tx, TASKS, np.zeros((1, 3)), np.zeros((1, 3), bool), later)
    np.testing.assert_array_equal(factors, 0)
    jax.tree.map(np.testing.assert_array_equal, last._replace(steps=0), later._replace(steps=0))


@pytest.mark.parametrize("normalize", ["initial", "log"])
def test_the_penalty_has_no_derivative_where_all_losses_are_equal(normalize, follow):
    losses = np.array([[0.3, 0.7, 1.9]])
    found = [follow(ldc_mtl(TASKS, penalty=p, normalize=normalize, logit_rate=0.1), TASKS, losses)[0] for p in (0, 0.1)]
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_the_penalty_brings_weighted_losses_together(follow):
    losses = np.array([[3.0, 1.0, 0.5]] * 60, np.float32)
    spreads = []
    for penalty in (0.0, 1.0):
        _, state = follow(ldc_mtl(TASKS, penalty=penalty, logit_rate=0.02), TASKS, losses)
        weighted = losses[0] / (1 + np.exp(-np.asarray(state.logits)))
        spreads.append(np.abs(np.diff(weighted)).sum())
    assert spreads[1] < 0.9 * spreads[0]


def test_weights_of_the_methods_before_are_part_of_the_loss():
    losses, weights = jnp.array([0.5, 1.0, 2.0]), jnp.array([1.0, 3.0, 0.2])
    tx = ldc_mtl(TASKS, learning_rate=0.1)
    found, _ = tx.update(TaskGradients(TASKS, losses, losses > 0, weights, None), tx.init(None))
    expected, _ = tx.update(TaskGradients(TASKS, losses * weights, losses > 0, jnp.ones(3), None), tx.init(None))
    np.testing.assert_allclose(found.weights, weights * expected.weights, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": -1.0}, "ldc_mtl penalty is -1.0; expected a finite number of at least 0"),
        ({"normalize": "first"}, "ldc_mtl normalize is 'first'; expected 'none', 'initial' or 'log'"),
        ({"learning_rate": None}, "ldc_mtl has no learning rate; pass learning_rate or logit_rate"),
        ({"logit_rate": -0.1}, "ldc_mtl rate is -0.1; expected a finite number of at least 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ldc_mtl(TASKS, **{"learning_rate": 0.1, **options})
