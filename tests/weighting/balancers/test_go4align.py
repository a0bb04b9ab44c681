"""GO4Align against the authors' code (tests/reference/make_go4align.py), and its clusters against brute force."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.weighting import TaskGradients, go4align
from mtan_jax.weighting.balancers.go4align import cluster_means

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "go4align.npz"
TASKS = ("semantic", "depth", "normal")


def follow_in_float64(tx, tasks, losses):
    """The factors at each step, for losses in float64; the state is float32."""

    @jax.jit
    def step(losses, state):
        ones = jnp.ones_like(losses)
        given, state = tx.update(TaskGradients(tasks, losses, ones > 0, ones, lambda cotangent: cotangent), state)
        return given.weights, state

    state, found = tx.init(None), []
    for row in losses:
        weights, state = step(jnp.asarray(row), state)
        found.append(weights)
    return np.stack(found)


@pytest.mark.parametrize(
    ("tasks", "groups"), [(2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (10, 1), (10, 2), (10, 3), (10, 4)]
)
@pytest.mark.parametrize("step_size", [1e-4, 0.1])
def test_the_authors_code(tasks, groups, step_size):
    names = tuple(f"task_{i}" for i in range(tasks))
    with jax.enable_x64(True), np.load(REFERENCE, allow_pickle=False) as stored:
        losses, expected = stored[f"{tasks}/losses"], stored[f"{tasks}/{groups}/{step_size}"]
        found = follow_in_float64(go4align(names, groups=groups, step_size=step_size), names, losses)
    assert all(len(np.unique(np.round(row, 9))) == groups for row in expected)
    # The state is float32. Largest relative difference seen: 7.1e-7.
    np.testing.assert_allclose(found, expected, rtol=5e-6)


def best_partition(values, clusters):
    """The least cost of all ways to give each value a cluster, and the centers in it."""
    best = None
    for labels in itertools.product(range(clusters), repeat=len(values)):
        labels = np.array(labels)
        centers = np.array([values[labels == c].mean() if (labels == c).any() else 0.0 for c in range(clusters)])
        cost = np.square(values - centers[labels]).sum()
        if best is None or cost < best[0]:
            best = cost, centers[labels]
    return best[1]


@pytest.mark.parametrize("clusters", [1, 2, 3, 4])
def test_clusters_are_the_best_of_all_partitions(clusters):
    rng = np.random.default_rng(0)
    cluster = jax.jit(cluster_means, static_argnums=2)
    for _ in range(10):
        values = rng.lognormal(sigma=2.0, size=6).astype(np.float32)
        present = np.ones(6, bool)
        found = cluster(values, present, clusters)
        np.testing.assert_allclose(found, best_partition(values.astype(float), clusters), rtol=1e-4)
        # Two absent values have no effect, whatever they are.
        present[rng.choice(6, 2, replace=False)] = False
        found = np.asarray(cluster(values, present, clusters))
        np.testing.assert_allclose(found[present], best_partition(values[present].astype(float), clusters), rtol=1e-4)
        np.testing.assert_array_equal(found[~present], 0)


def test_equal_values_and_fewer_values_than_clusters():
    cluster = jax.jit(cluster_means, static_argnums=2)
    np.testing.assert_allclose(cluster(jnp.full(4, 3.0), jnp.ones(4, bool), 3), 3.0)
    np.testing.assert_allclose(cluster(jnp.zeros(4), jnp.ones(4, bool), 2), 0.0)
    present = jnp.array([True, False, True, False])
    np.testing.assert_allclose(cluster(jnp.array([5.0, 1.0, 2.0, 1.0]), present, 4), [5.0, 0.0, 2.0, 0.0])
    np.testing.assert_array_equal(cluster(jnp.ones(4), jnp.zeros(4, bool), 2), 0)


def test_an_absent_task_keeps_its_indicator_and_has_no_effect(follow):
    losses = np.array([[0.5, 1.0, 2.0], [0.4, 0.0, 1.5], [0.3, 0.9, 1.2]], np.float32)
    present = losses > 0
    tx = go4align(TASKS, step_size=0.5)
    _, first = follow(tx, TASKS, losses[:1])
    factors, second = follow(tx, TASKS, losses[1:2], present[1:2], first)
    assert second.log_q[1] == first.log_q[1]
    assert factors[0, 1] == 0
    np.testing.assert_allclose(np.exp(second.log_q).sum(), 1, rtol=1e-6)
    pair = TASKS[::2]
    others, _ = follow(go4align(pair, step_size=0.5), pair, losses[:2, ::2])
    np.testing.assert_allclose(factors[0, ::2], others[1], rtol=1e-5)
    factors, last = follow(tx, TASKS, np.zeros((1, 3)), np.zeros((1, 3), bool), second)
    np.testing.assert_array_equal(factors, 0)
    np.testing.assert_array_equal(last.log_q, second.log_q)


def test_weights_of_the_methods_before_are_part_of_the_loss():
    losses, weights = jnp.array([0.5, 1.0, 2.0]), jnp.array([1.0, 3.0, 0.2])
    tx = go4align(TASKS)
    found, _ = tx.update(TaskGradients(TASKS, losses, losses > 0, weights, None), tx.init(None))
    expected, _ = tx.update(TaskGradients(TASKS, losses * weights, losses > 0, jnp.ones(3), None), tx.init(None))
    np.testing.assert_allclose(found.weights, weights * expected.weights, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 0}, "go4align groups is 0; expected an integer of at least 1"),
        ({"groups": 1.5}, "go4align groups is 1.5; expected an integer"),
        ({"step_size": -1.0}, "go4align step_size is -1.0; expected a finite number of at least 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        go4align(TASKS, **options)
