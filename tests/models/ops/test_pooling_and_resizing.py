"""Max-pooling, its way back and doubling, against slow formulas written from their definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtan_jax.models import ops


def naive_max_pool(x):
    b, h, w, c = x.shape
    values, positions = np.zeros((b, h // 2, w // 2, c)), np.zeros((b, h // 2, w // 2, c), int)
    for n, i, j, k in itertools.product(range(b), range(h // 2), range(w // 2), range(c)):
        window = x[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, k].reshape(-1)
        positions[n, i, j, k] = np.argmax(window)  # the first one, as in PyTorch
        values[n, i, j, k] = window.max()
    return values, positions


@pytest.fixture
def image():
    # Few distinct values: about half the windows have ties.
    return np.random.default_rng(0).integers(0, 3, (2, 6, 8, 3)).astype(np.float32)


def test_max_pool_takes_the_first_maximum(image):
    values, positions = ops.max_pool(jnp.asarray(image))
    expected_values, expected_positions = naive_max_pool(image)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(positions, expected_positions)
    assert positions.dtype == jnp.int8


def test_max_unpool_puts_values_back(image):
    values, positions = naive_max_pool(image)
    expected = np.zeros_like(image)
    for index in itertools.product(*map(range, values.shape)):
        n, i, j, k = index
        row, column = divmod(positions[index], 2)
        expected[n, 2 * i + row, 2 * j + column, k] = values[index]
    found = ops.max_unpool(jnp.asarray(values, jnp.float32), jnp.asarray(positions, jnp.int8))
    np.testing.assert_array_equal(found, expected)


def test_gradient_of_max_pool_goes_to_the_first_maximum(image):
    weights = np.random.default_rng(1).normal(size=(2, 3, 4, 3)).astype(np.float32)
    found = jax.grad(lambda x: (ops.max_pool(x)[0] * weights).sum())(jnp.asarray(image))
    expected = np.zeros_like(image)
    _, positions = naive_max_pool(image)
    for n, i, j, k in itertools.product(*map(range, weights.shape)):
        row, column = divmod(positions[n, i, j, k], 2)
        expected[n, 2 * i + row, 2 * j + column, k] = weights[n, i, j, k]
    np.testing.assert_array_equal(found, expected)


def test_pool_and_unpool_take_a_task_axis(image):
    stacked = jnp.stack([image, image[::-1]])
    values, positions = ops.max_pool(stacked)
    for t in range(2):
        expected = ops.max_pool(stacked[t])
        np.testing.assert_array_equal(values[t], expected[0])
        np.testing.assert_array_equal(ops.max_unpool(values, positions)[t], ops.max_unpool(*expected))


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 2, 3, 1), (1, 5, 8, 2), (3, 1, 4, 6, 2)])
def test_upsample_interpolates_between_corners(shape):
    x = np.random.default_rng(0).normal(size=shape)
    expected = x
    for axis in (len(shape) - 3, len(shape) - 2):
        n = shape[axis]
        places = np.linspace(0, n - 1, 2 * n)  # align_corners: the ends stay the ends
        expected = np.apply_along_axis(lambda v, p=places: np.interp(p, np.arange(len(v)), v), axis, expected)
    # float32: a few roundings of values of order 1
    np.testing.assert_allclose(ops.upsample(jnp.asarray(x, jnp.float32)), expected, atol=1e-6)
