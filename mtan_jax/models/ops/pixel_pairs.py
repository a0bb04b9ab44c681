"""Computes on pairs of neighboring pixels as one pixel with twice the channels, on TPUs.

A TPU stores arrays in tiles of 128 channels. An array with 64 channels takes twice its size in memory, and XLA copies
it between that layout and a column-major one. At the finest stages of a network, [b, h, w, c] is therefore computed as
[b, h, w/2, 2c] (docs/performance.md has the savings). Ops join pixels before they compute and split them afterwards.
XLA cancels the split and join between two ops.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from mtan_jax.models.ops import platforms

MIN_WIDTH = 256  # pixels; narrower images are not paired
CHANNELS = range(16, 129)  # predictions have fewer channels, and more than 128 fill tiles on their own
CONV_CHANNELS = range(1, 65)  # input channels of a paired convolution: a tile holds those of two pixels


def applies(width: int, channels: int, *, among: range = CHANNELS) -> bool:
    """Whether TPUs compute images of this width and number of channels in pairs."""
    return width >= MIN_WIDTH and width % 2 == 0 and channels in among


def join(x: Float[Array, "*n w c"]) -> Float[Array, "*n w/2 2*c"]:
    """Joins pixels 2i and 2i+1 of each row: channels of the former, then of the latter."""
    return x.reshape(*x.shape[:-2], x.shape[-2] // 2, 2 * x.shape[-1])


def split(x: Float[Array, "*n w c"]) -> Float[Array, "*n 2*w c/2"]:
    """Inverts `join`."""
    return x.reshape(*x.shape[:-2], 2 * x.shape[-2], x.shape[-1] // 2)


def repeat(values: Float[Array, "*n c"]) -> Float[Array, "*n 2*c"]:
    """Repeats per-channel values for both pixels of a pair."""
    return jnp.concatenate([values, values], -1)


def map_pixels(
    function: Callable[..., Array], images: Sequence[Float[Array, "*t b h w c"]], values: Sequence[Array] = ()
) -> Float[Array, "*t b h w c"]:
    """Computes `function(*images, *values)`, where function acts on each pixel separately.

    Args:
        function: maps images and per-channel values to an image.
        images: arrays of one shape.
        values: per-channel values, [*t, c].
    """

    def single(images: Sequence[Array], values: Sequence[Array]) -> Array:
        return function(*images, *values)

    def paired(images: Sequence[Array], values: Sequence[Array]) -> Array:
        return split(function(*map(join, images), *map(repeat, values)))

    on_tpus = paired if applies(*images[0].shape[-2:]) else None
    return platforms.select(tuple(images), tuple(values), default=single, tpu=on_tpus)


def sum_pixels(
    function: Callable[..., tuple[Array, ...]],
    images: Sequence[Float[Array, "*t b h w c"]],
    values: Sequence[Array] = (),
) -> tuple[Float[Array, "*t c"], ...]:
    """Computes `function(*images, *values)`, where function returns per-channel sums over pixels.

    Args:
        function: maps images and per-channel values to per-channel sums.
        images: arrays of one shape.
        values: per-channel values, [*t, c].
    """

    def single(images: Sequence[Array], values: Sequence[Array]) -> tuple[Array, ...]:
        return function(*images, *values)

    def paired(images: Sequence[Array], values: Sequence[Array]) -> tuple[Array, ...]:
        sums = function(*map(join, images), *map(repeat, values))
        return tuple(pair.reshape(*pair.shape[:-1], 2, -1).sum(-2) for pair in sums)

    on_tpus = paired if applies(*images[0].shape[-2:]) else None
    return platforms.select(tuple(images), tuple(values), default=single, tpu=on_tpus)


def pair_kernel(kernel: Float[Array, "k l c d"]) -> Float[Array, "k m 2*c 2*d"]:
    """Converts a kernel of odd size to the equivalent kernel over pairs of pixels, filled up with zeros."""
    reach = kernel.shape[1] // 2
    pairs = -(-reach // 2)  # on either side
    space = 2 * pairs + 1 - reach
    taps = jnp.pad(kernel, ((0, 0), (space, space), (0, 0), (0, 0)))

    def of_pair(s: int) -> Array:
        # The tap is that of the distance between pixel i of pair s and pixel j of the pair in the middle.
        blocks = [[taps[:, 2 * s + i - j + 1] for j in range(2)] for i in range(2)]
        return jnp.concatenate([jnp.concatenate(row, -1) for row in blocks], -2)

    return jnp.stack([of_pair(s) for s in range(2 * pairs + 1)], 1)
