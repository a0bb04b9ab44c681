import numpy as np
import pytest
import scipy.optimize

from mtan_jax.tasks import best_constants as centres


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def mean_angle(direction, points):
    """In degrees."""
    return np.degrees(np.arccos(np.clip(points @ unit(direction), -1, 1))).mean()


def test_majority_class_wins():
    log_probabilities = centres.majority_class(np.array([3, 1, 3, 0, 3, 1], np.int8), 5)
    np.testing.assert_array_equal(np.exp(log_probabilities), [0, 0, 0, 1, 0])


def test_median_by_hand():
    np.testing.assert_array_equal(centres.median_value(np.array([[4.0], [1.0], [100.0], [3.0]])), [3.5])


def walls_and_floor(seed):
    """Normals around three directions at right angles, unevenly many, with outliers everywhere."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    axes = turn[rng.choice(3, 3_000, p=rng.dirichlet([2, 2, 2]))]
    points = np.concatenate([axes + 0.1 * rng.normal(size=axes.shape), rng.normal(size=(500, 3))])
    return unit(points)


@pytest.mark.parametrize("seed", range(4))
def test_median_direction_agrees_with_a_general_optimiser(seed):
    points = walls_and_floor(seed)
    starts = np.random.default_rng(100 + seed).normal(size=(12, 3))
    lowest = min(
        scipy.optimize.minimize(mean_angle, start, args=(points,), method="Nelder-Mead", options={"fatol": 1e-10}).fun
        for start in starts
    )
    assert mean_angle(centres.median_direction(points.astype(np.float32)), points) <= lowest + 1e-4


def test_median_direction_is_the_value_that_half_of_the_pixels_have():
    rng = np.random.default_rng(0)
    up = unit(np.array([0.1, -0.97, 0.2]))
    points = np.concatenate([np.tile(up, (600, 1)), unit(rng.normal(size=(500, 3)))])
    np.testing.assert_allclose(centres.median_direction(rng.permutation(points)), up, atol=1e-6)


def test_many_points_are_thinned_evenly_over_columns(monkeypatch):
    monkeypatch.setattr(centres, "MAX_POINTS", 1_024)
    # 64 rows of 128 columns, most of them looking up: a stride of 8 would see the other kind only.
    up, right = np.array([0.0, 1, 0]), np.array([1.0, 0, 0])
    points = np.tile(np.where(np.arange(128)[:, None] % 8 > 2, up, right), (64, 1))
    np.testing.assert_allclose(centres.median_direction(points), up, atol=1e-6)


def test_the_same_pixels_give_the_same_direction():
    points = walls_and_floor(0)
    np.testing.assert_array_equal(centres.median_direction(points), centres.median_direction(points.copy()))
