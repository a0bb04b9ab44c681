"""Pairs of neighbouring pixels as one pixel of twice the channels, on TPUs.

A TPU keeps arrays in tiles of 128 channels: one with 64 takes twice its size in memory, and XLA copies it to and fro
between that layout and one by columns. At the finest stages of a network, [b, h, w, c] is therefore computed with as
[b, h, w/2, 2c] (docs/performance.md has what this saves). Operations join pixels before and split them after; between
two of them, XLA drops both. Max-unpooling moves fewer bytes without. On other devices operations are as written, bit
for bit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

LEAST_WIDTH = 256  # of images that are computed with in pairs
CHANNELS = range(16, 129)  # and their channels: predictions have fewer, and more fill tiles without
CONVOLVED = range(1, 65)  # channels that a convolution in pairs reads: a tile holds those of two pixels


def suits(width: int, channels: int, *, among: range = CHANNELS) -> bool:
    """Whether images are computed with in pairs."""
    return width >= LEAST_WIDTH and width % 2 == 0 and channels in among


def on_tpus(there: Callable[..., Any], elsewhere: Callable[..., Any], *arrays: Any) -> Any:
    """The one function of the arrays where it is compiled for TPUs, the other elsewhere."""
    return lax.platform_dependent(*arrays, tpu=there, default=elsewhere)


def join(x: Float[Array, "*n w c"]) -> Float[Array, "*n w/2 2*c"]:
    """Pixels 2i and 2i+1 of a row as one: the former's channels, then the latter's."""
    return x.reshape(*x.shape[:-2], x.shape[-2] // 2, 2 * x.shape[-1])


def split(x: Float[Array, "*n w c"]) -> Float[Array, "*n 2*w c/2"]:
    """What was joined."""
    return x.reshape(*x.shape[:-2], 2 * x.shape[-2], x.shape[-1] // 2)


def twice(values: Float[Array, "*n c"]) -> Float[Array, "*n 2*c"]:
    """The same for both pixels of a pair."""
    return jnp.concatenate([values, values], -1)


def each_pixel(
    function: Callable[..., Array], images: Sequence[Float[Array, "*t b h w c"]], values: Sequence[Array] = ()
) -> Float[Array, "*t b h w c"]:
    """`function(*images, *values)`, an image whose pixels follow from those of the images and values of channels."""
    if not suits(*images[0].shape[-2:]):
        return function(*images, *values)

    def in_pairs(images: Sequence[Array], values: Sequence[Array]) -> Array:
        return split(function(*map(join, images), *map(twice, values)))

    return on_tpus(in_pairs, lambda images, values: function(*images, *values), tuple(images), tuple(values))


def sum_pixels(
    function: Callable[..., tuple[Array, ...]],
    images: Sequence[Float[Array, "*t b h w c"]],
    values: Sequence[Array] = (),
) -> tuple[Float[Array, "*t c"], ...]:
    """`function(*images, *values)`, sums of a channel over pixels."""
    if not suits(*images[0].shape[-2:]):
        return function(*images, *values)

    def in_pairs(images: Sequence[Array], values: Sequence[Array]) -> tuple[Array, ...]:
        sums = function(*map(join, images), *map(twice, values))
        return tuple(of_pairs.reshape(*of_pairs.shape[:-1], 2, -1).sum(-2) for of_pairs in sums)

    return on_tpus(in_pairs, lambda images, values: function(*images, *values), tuple(images), tuple(values))


def kernel_of_pairs(kernel: Float[Array, "k l c d"]) -> Float[Array, "k m 2*c 2*d"]:
    """The kernel that does to pairs what a kernel of odd size does to pixels; entries between others are 0."""
    reach = kernel.shape[1] // 2
    pairs = -(-reach // 2)  # on either side
    space = 2 * pairs + 1 - reach
    taps = jnp.pad(kernel, ((0, 0), (space, space), (0, 0), (0, 0)))

    def of_pair(s: int) -> Array:
        # From pixel i of pair s to pixel j of the pair in the middle: this many pixels further.
        blocks = [[taps[:, 2 * s + i - j + 1] for j in range(2)] for i in range(2)]
        return jnp.concatenate([jnp.concatenate(row, -1) for row in blocks], -2)

    return jnp.stack([of_pair(s) for s in range(2 * pairs + 1)], 1)
