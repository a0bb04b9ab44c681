"""Krum, trimmed mean and CR-MOGM against TorchJD and Flower (tests/reference/make_torchjd.py), and their properties."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtan_jax.weighting import TaskGradients, cr_mogm, krum, mgda, task_weights, trimmed_mean

REFERENCE = pathlib.Path(__file__).parents[2] / "reference" / "torchjd.npz"
each_count = pytest.mark.parametrize("tasks", [2, 3, 10])


def _name(value):
    """The part of a test's name: the same in every process, unlike a function's representation."""
    return getattr(value, "__name__", str(value))


@functools.cache
def stored():
    with np.load(REFERENCE, allow_pickle=False) as arrays:
        return dict(arrays)


def names_of(count):
    return tuple(f"task_{i}" for i in range(count))


def follow(make, gradients, present=None, **options):
    """The combined gradients and the weights of all steps, and the last state; gradients are [steps, t, p]."""
    count = gradients.shape[1]
    tx = make(names_of(count), shared=lambda path: True, **options)
    present = np.ones(gradients.shape[:2], bool) if present is None else np.asarray(present)

    def step(state, row):
        rows, there = row
        rows = rows * there[:, None]
        given = TaskGradients(names_of(count), jnp.ones(count), there, jnp.ones(count), lambda c: c @ rows)
        update, state = tx.update(given, state)
        return state, (update, task_weights(state))

    start = tx.init(jnp.zeros(gradients.shape[2]))
    state, found = jax.jit(lambda state: jax.lax.scan(step, state, (jnp.asarray(gradients), present)))(start)
    return *map(np.asarray, found), state


def assert_close(found, expected, tolerance):
    """Every step, relative to the step's norm."""
    difference = np.linalg.norm(found - expected, axis=1)
    assert (difference <= tolerance * np.linalg.norm(expected, axis=1)).all()


@each_count
def test_trimmed_mean_is_that_of_torchjd(tasks):
    gradients = stored()[f"{tasks}/gradients"]
    with jax.enable_x64(True):
        for trim in range((tasks + 1) // 2):
            expected = stored()[f"{tasks}/torchjd/trimmed_mean/{trim}"]
            assert_close(follow(trimmed_mean, gradients, trim=trim)[0], expected, 1e-12)
        assert_close(follow(trimmed_mean, gradients)[0], np.median(gradients, axis=1), 1e-12)


@pytest.mark.parametrize(
    ("tasks", "num_byzantine", "num_selected"), [(3, 0, 2), (10, 0, 1), (10, 2, 3), (10, 3, 1)], ids=str
)
def test_krum_is_that_of_torchjd_and_flower(tasks, num_byzantine, num_selected):
    """TorchJD sums distances, Flower their squares; with 10 tasks some steps differ."""
    gradients, key = stored()[f"{tasks}/gradients"], f"krum/{num_byzantine}_{num_selected}"
    options = {"num_byzantine": num_byzantine, "num_selected": num_selected}
    plain, squared = stored()[f"{tasks}/torchjd/{key}"], stored()[f"{tasks}/flower/{key}"]
    with jax.enable_x64(True):
        assert_close(follow(krum, gradients, distance="plain", **options)[0], plain, 1e-12)
        assert_close(follow(krum, gradients, **options)[0], squared, 1e-12)
    assert np.allclose(plain, squared) == (tasks == 3)


@each_count
@pytest.mark.parametrize("method", ["mgda", "upgrad"])
def test_cr_mogm_averages_as_torchjd_does(method, tasks):
    """The state is float32. The tolerance is that of the solver for UPGrad, as in test_gradient_methods.py."""
    expected = stored()[f"{tasks}/torchjd/cr_mogm/{method}"]
    assert np.abs(np.diff(expected, axis=0)).max() > 0.01
    with jax.enable_x64(True):
        gradients = stored()[f"{tasks}/gradients"]
        combined, weights, _ = follow(cr_mogm, gradients, method=method)
    assert_close(weights, expected, 1e-6 if method == "mgda" else 1e-4)
    assert_close(combined, np.einsum("st,stp->sp", weights, gradients), 1e-5)


# Properties.


def around_one_point(tasks, outliers, seed=0):
    """Gradients around a common point, the first of them replaced by far ones of random directions."""
    rng = np.random.default_rng(seed)
    point = rng.normal(size=20)
    rows = point + 0.1 * rng.normal(size=(tasks, 20))
    rows[:outliers] = 1e3 * rng.normal(size=(outliers, 20))
    return rows.astype(np.float32), point


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (krum, {"num_byzantine": 2}),
        (krum, {"num_byzantine": 2, "num_selected": 5, "distance": "plain"}),
        (trimmed_mean, {"trim": 2}),
        (trimmed_mean, {}),
    ],
    ids=_name,
)
def test_outliers_do_not_move_the_update(method, options):
    """The papers' guarantee: with few enough outliers, the update stays near the mean of the other gradients."""
    rows, point = around_one_point(7, 2)
    found, weights, _ = follow(method, rows[None], **options)
    assert np.linalg.norm(found[0] - point) < 0.15 * np.linalg.norm(point) < 0.01 * np.linalg.norm(rows.mean(0) - point)
    if method is krum:
        np.testing.assert_array_equal(weights[0, :2], 0)
        assert weights.sum() == pytest.approx(1, abs=1e-6)


def test_gradients_with_equal_scores_share_their_weight():
    """With three tasks, those of the nearest pair have equal scores in any order."""
    rows = np.random.default_rng(3).normal(size=(3, 20)).astype(np.float32)
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=2) + 1e9 * np.eye(3)
    nearest = sorted(np.unravel_index(distances.argmin(), (3, 3)))
    for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2]):
        _, weights, _ = follow(krum, rows[order][None])
        np.testing.assert_array_equal(weights[0], [0.5 if task in nearest else 0 for task in order])
    # All scores are equal: two places are shared by four tasks.
    _, weights, _ = follow(krum, np.eye(4, dtype=np.float32)[None], num_selected=2)
    np.testing.assert_array_equal(weights[0], 0.25)


@pytest.mark.parametrize(("method", "options"), [(krum, {"num_byzantine": 1}), (trimmed_mean, {"trim": 1})], ids=_name)
def test_few_present_tasks(method, options):
    rows = around_one_point(5, 0)[0]
    with_all = follow(method, rows[None, :4], **options)
    for present, tasks in (([1, 1, 1, 1, 0], [0, 1, 2, 3]), ([0, 1, 0, 1, 0], [1, 3]), ([0, 0, 1, 0, 0], [2])):
        found, weights, _ = follow(method, rows[None], present=np.array([present], bool), **options)
        expected = with_all[0][0] if len(tasks) == 4 else rows[tasks].mean(0)
        np.testing.assert_allclose(found[0], expected, rtol=1e-5)
        assert (weights[0, [i for i in range(5) if i not in tasks]] == 0).all()
    found, _, _ = follow(method, rows[None], present=np.zeros((1, 5), bool), **options)
    np.testing.assert_array_equal(found, 0)


def test_alpha_of_cr_mogm():
    """0 gives the method's own weights, 1 those of the first step, and a schedule both in turn."""
    gradients = stored()["3/gradients"].astype(np.float32)
    _, plain, _ = follow(mgda, gradients)
    np.testing.assert_allclose(follow(cr_mogm, gradients, alpha=0.0)[1], plain, atol=1e-6)
    np.testing.assert_allclose(follow(cr_mogm, gradients, alpha=1.0)[1], np.repeat(plain[:1], 20, 0), atol=1e-6)
    _, found, _ = follow(cr_mogm, gradients, alpha=optax.piecewise_constant_schedule(1.0, {5: 0.0}))
    # The first step always starts the average; steps 1 to 4 freeze it.
    np.testing.assert_allclose(found, np.concatenate([np.repeat(plain[:1], 5, 0), plain[5:]]), atol=1e-6)


def test_weights_of_cr_mogm_stay_on_the_simplex_and_vary_less():
    gradients = stored()["10/gradients"].astype(np.float32)
    _, plain, _ = follow(mgda, gradients)
    _, found, _ = follow(cr_mogm, gradients)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert (found >= 0).all()
    assert np.abs(np.diff(found, axis=0)).mean() < 0.3 * np.abs(np.diff(plain, axis=0)).mean()


def test_an_absent_task_keeps_its_average():
    gradients = stored()["3/gradients"][:4].astype(np.float32)
    present = np.array([[1, 0, 1], [1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
    _, found, state = follow(cr_mogm, gradients, present=present)
    current = np.stack([follow(mgda, g[None], present=p[None])[1][0] for g, p in zip(gradients, present, strict=True)])
    np.testing.assert_array_equal(found[~present], 0)
    assert found[1, 1] == pytest.approx(current[1, 1], abs=1e-6)  # the first weight of this task
    assert found[3, 1] == pytest.approx(0.9 * found[1, 1] + 0.1 * current[3, 1], abs=1e-6)
    np.testing.assert_array_equal(state.inner.weights, found[3])


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (krum, {"num_byzantine": -1}, "krum num_byzantine is -1; expected an integer of at least 0"),
        (
            krum,
            {"num_byzantine": 1},
            "krum num_byzantine is 1 with 3 tasks; expected at least num_byzantine",
        ),
        (krum, {"num_selected": 0}, "krum num_selected is 0; expected an integer of at least 1"),
        (krum, {"num_selected": 4}, "krum num_selected is 4; expected at most the number of tasks, 3"),
        (krum, {"distance": "l2"}, "krum distance is 'l2'; expected 'squared' or 'plain'"),
        (trimmed_mean, {"trim": -1}, "trimmed_mean trim is -1; expected an integer of at least 0"),
        (trimmed_mean, {"trim": 2}, "trimmed_mean trim is 2, which leaves none of 3 gradients; expected at most 1"),
        (cr_mogm, {"method": "pcgrad"}, "cr_mogm method is 'pcgrad'; expected 'mgda' or 'upgrad'"),
        (cr_mogm, {"alpha": 1.5}, "cr_mogm alpha is 1.5; expected a number from 0 to 1"),
    ],
)
def test_bad_options(method, options, message):
    with pytest.raises(ValueError, match=message):
        method(names_of(3), **options)
