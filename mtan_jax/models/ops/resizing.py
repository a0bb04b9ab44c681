"""Bilinear resizing with align_corners=True, as in PyTorch: the corner pixels keep their values."""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mtan_jax.models.ops import pixel_pairs, platforms
from mtan_jax.models.ops.reference import bilinear_matrix


def upsample(x: Float[Array, "*n h w c"]) -> Float[Array, "*n 2*h 2*w c"]:
    """Doubles height and width bilinearly with align_corners=True.

    Products with a matrix move half the bytes on TPUs; slices are much faster on CPUs.
    """
    is_paired = pixel_pairs.applies(2 * x.shape[-2], x.shape[-1])
    return platforms.select(x, default=doubled_by_slices, tpu=doubled_in_pairs if is_paired else doubled_by_products)


def doubled_by_products(x: Float[Array, "*n h w c"]) -> Float[Array, "*n 2*h 2*w c"]:
    """`upsample` as products with the interpolation matrices."""
    down, across = _doubling_matrices(x)
    return _product("...hwc,Ww->...hWc", _product("...hwc,Hh->...Hwc", x, down), across)


def doubled_in_pairs(x: Float[Array, "*n h w c"]) -> Float[Array, "*n 2*h 2*w c"]:
    """`upsample` as products whose output is in pairs of pixels."""
    *batch, height, width, channels = x.shape
    down, across = _doubling_matrices(x)
    x = _product("...hwc,Wjw->...hWjc", x, across.reshape(width, 2, width))
    x = _product("...hwc,Hh->...Hwc", x.reshape(*batch, height, width, 2 * channels), down)
    return pixel_pairs.split(x)


_product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def _doubling_matrices(x: Array) -> tuple[Array, Array]:
    height, width = x.shape[-3:-1]
    return (
        jnp.asarray(bilinear_matrix(height, 2 * height), x.dtype),
        jnp.asarray(bilinear_matrix(width, 2 * width), x.dtype),
    )


def doubled_by_slices(x: Float[Array, "*n h w c"]) -> Float[Array, "*n 2*h 2*w c"]:
    """`upsample` as weighted sums of shifted slices."""
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
    """Resizes to `size` (height, width) bilinearly with align_corners=True."""
    for axis, length in zip((1, 2), size, strict=True):
        if x.shape[axis] != length:
            weights = jnp.asarray(bilinear_matrix(x.shape[axis], length), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(x, weights, (axis, 1)), -1, axis)
    return x
