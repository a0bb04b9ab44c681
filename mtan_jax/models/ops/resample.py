"""Max-pooling and its way back, doubling and resizing of images, with the numerics of PyTorch's.

Arrays are channels-last.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int8

from mtan_jax.models.ops import pixel_pairs


@jax.custom_vjp
def max_pool(
    x: Float[Array, "*n h w c"],
) -> tuple[Float[Array, "*n h/2 w/2 c"], Int8[Array, "*n h/2 w/2 c"]]:
    """Max-pooling of 2x2 windows, and the position (0..3, row by row) of the maximum in each.

    The first maximum wins, as in PyTorch. Windows are compared pairwise, in slices: a test `window == maximum`
    may fail at the true maximum where XLA computes its two sides in different fusions.
    """
    if pixel_pairs.suits(*x.shape[-2:]):
        return pixel_pairs.on_tpus(_pool_pairs, _pool, x)
    return _pool(x)


def _pool(x: Array) -> tuple[Array, Array]:
    (a, b), (c, d) = ([x[..., i::2, j::2, :] for j in range(2)] for i in range(2))
    return _larger(*_larger(a, 0, b, 1), *_larger(c, 2, d, 3))


def _pool_pairs(x: Array) -> tuple[Array, Array]:
    # Rows first, so that what is split into halves, which XLA copies, is half as much.
    joined = pixel_pairs.join(x)
    values, position = _larger(joined[..., 0::2, :, :], 0, joined[..., 1::2, :, :], 2)
    (left, right), (on_left, on_right) = (jnp.split(array, 2, axis=-1) for array in (values, position))
    # The larger of the two wins, whatever becomes of a tie; of equal ones that of the upper row is the first.
    right_wins = (right > left) | ((right == left) & (on_right < on_left))
    return jnp.where(right_wins, right, left), jnp.where(right_wins, on_right + jnp.int8(1), on_left)


def _larger(a: Array, a_position: Array | int, b: Array, b_position: Array | int) -> tuple[Array, Array]:
    b_wins = b > a
    return jnp.where(b_wins, b, a), jnp.where(b_wins, jnp.int8(b_position), jnp.int8(a_position))


def _max_pool_forward(x: Array) -> tuple[tuple[Array, Array], Array]:
    values, position = max_pool(x)
    return (values, position), position


def _max_pool_backward(position: Array, cotangents: tuple[Array, Array]) -> tuple[Array]:
    return (max_unpool(cotangents[0], position),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def max_unpool(x: Float[Array, "*n h w c"], position: Int8[Array, "*n h w c"]) -> Float[Array, "*n 2*h 2*w c"]:
    """Puts each value at its position (of `max_pool`) in a 2x2 window of zeros."""
    *batch, height, width, channels = x.shape
    corner = jnp.arange(4, dtype=jnp.int8).reshape((1,) * len(batch) + (1, 2, 1, 2, 1))
    windows = jnp.where(
        jnp.expand_dims(position, (-4, -2)) == corner, jnp.expand_dims(x, (-4, -2)), jnp.zeros((), x.dtype)
    )
    return windows.reshape(*batch, 2 * height, 2 * width, channels)


def upsample(x: Float[Array, "*n h w c"]) -> Float[Array, "*n 2*h 2*w c"]:
    """Doubles height and width bilinearly with align_corners=True (the corner pixels keep their values).

    On TPUs by products with a matrix, which move half the bytes; on others by slices, which CPUs do much faster.
    """
    return pixel_pairs.on_tpus(_double_by_products, _double_by_slices, x)


def _double_by_products(x: Float[Array, "*n h w c"]) -> Float[Array, "*n 2*h 2*w c"]:
    *batch, height, width, channels = x.shape
    product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    down, across = (jnp.asarray(_bilinear_matrix(size, 2 * size), x.dtype) for size in (height, width))
    if not pixel_pairs.suits(2 * width, channels):
        return product("...hwc,Ww->...hWc", product("...hwc,Hh->...Hwc", x, down), across)
    x = product("...hwc,Wjw->...hWjc", x, across.reshape(width, 2, width))
    x = product("...hwc,Hh->...Hwc", x.reshape(*batch, height, width, 2 * channels), down)
    return pixel_pairs.split(x)


def _double_by_slices(x: Float[Array, "*n h w c"]) -> Float[Array, "*n 2*h 2*w c"]:
    return _double(_double(x, x.ndim - 3), x.ndim - 2)


def _double(x: Array, axis: int) -> Array:
    # Output 2k lies k/(2n-1) before input k, output 2k+1 lies (n-1-k)/(2n-1) after it: two shifted sums, no gather.
    n = x.shape[axis]
    before = jnp.concatenate([lax.slice_in_dim(x, 0, 1, axis=axis), lax.slice_in_dim(x, 0, n - 1, axis=axis)], axis)
    after = jnp.concatenate([lax.slice_in_dim(x, 1, n, axis=axis), lax.slice_in_dim(x, n - 1, n, axis=axis)], axis)
    shape = tuple(n if a == axis else 1 for a in range(x.ndim))
    k = jnp.arange(n).reshape(shape)
    even = x + (before - x) * (k / (2 * n - 1)).astype(x.dtype)
    odd = x + (after - x) * ((n - 1 - k) / (2 * n - 1)).astype(x.dtype)
    doubled = jnp.stack([even, odd], axis + 1)
    return doubled.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])


def resize(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b H W c"]:
    """Resizes to `size` (height, width) bilinearly with align_corners=True: the corner pixels keep their values."""
    for axis, length in zip((1, 2), size, strict=True):
        if x.shape[axis] != length:
            weights = jnp.asarray(_bilinear_matrix(x.shape[axis], length), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(x, weights, (axis, 1)), -1, axis)
    return x


def _bilinear_matrix(old: int, new: int) -> np.ndarray:
    """`new` x `old` weights; each row has at most two that are not 0."""
    place = np.linspace(0, old - 1, new)[:, None]
    return np.clip(1 - np.abs(place - np.arange(old)), 0, None)
