"""Max-pooling by 2 with positions, and max-unpooling, as in PyTorch. Arrays are channels-last."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from mtan_jax.models.ops import pixel_pairs, platforms


@jax.custom_vjp
def max_pool(
    x: Float[Array, "*n h w c"],
) -> tuple[Float[Array, "*n h/2 w/2 c"], Int8[Array, "*n h/2 w/2 c"]]:
    """Max-pools 2x2 windows; returns values and int8 window positions (0..3, row by row).

    The first maximum of a window wins, as in PyTorch, and gets the gradient.
    """
    on_tpus = pooled_in_pairs if pixel_pairs.applies(*x.shape[-2:]) else None
    return platforms.select(x, default=pooled_by_slices, tpu=on_tpus)


def pooled_by_slices(x: Array) -> tuple[Array, Array]:
    """`max_pool` by pairwise comparison of slices.

    A test `window == maximum` may fail at the true maximum, because XLA may compute its two sides in different fusions.
    """
    (a, b), (c, d) = ([x[..., i::2, j::2, :] for j in range(2)] for i in range(2))
    return _larger(*_larger(a, 0, b, 1), *_larger(c, 2, d, 3))


def pooled_in_pairs(x: Array) -> tuple[Array, Array]:
    """`max_pool` of pairs of pixels. Rows are compared before pairs are split, because XLA copies the halves."""
    joined = pixel_pairs.join(x)
    values, position = _larger(joined[..., 0::2, :, :], 0, joined[..., 1::2, :, :], 2)
    (left, right), (on_left, on_right) = (jnp.split(array, 2, axis=-1) for array in (values, position))
    # The larger value wins. Of equal values, the one in the upper row wins, and within a row the left one.
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
    """Puts each value at its position (of `max_pool`) in a 2x2 window of zeros.

    TPUs use single pixels too, because in pairs it would move more bytes.
    """
    *batch, height, width, channels = x.shape
    corner = jnp.arange(4, dtype=jnp.int8).reshape((1,) * len(batch) + (1, 2, 1, 2, 1))
    windows = jnp.where(
        jnp.expand_dims(position, (-4, -2)) == corner, jnp.expand_dims(x, (-4, -2)), jnp.zeros((), x.dtype)
    )
    return windows.reshape(*batch, 2 * height, 2 * width, channels)
