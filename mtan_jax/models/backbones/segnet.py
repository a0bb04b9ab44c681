"""SegNet (Badrinarayanan, Kendall, Cipolla, 2017) as the authors of MTAN run it."""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mtan_jax.models.layers import ConvNorm, max_pool, max_unpool
from mtan_jax.models.stage import Stage

WIDTHS = (64, 128, 256, 512, 512)


class SegNet(nn.Module):
    """VGG-16 without its last layers, and the mirror image of it, joined by the positions of the max-pooling.

    Encoder block i maps to `widths[i]` channels by one convolution, refines by one (the two finest blocks) or two more,
    and is max-pooled. Decoder block i is unpooled with the positions of encoder block i, maps to `widths[max(i-1, 0)]`
    channels and is refined likewise. Stages: encoder_0 (finest) .. encoder_4, decoder_4 .. decoder_0. A mask looks at
    the first convolution of an encoder block, or at the unpooled features of a decoder block, and gates the block's
    last convolution.

    Raises:
        ValueError: where the image cannot be halved once a block.
    """

    widths: tuple[int, ...] = WIDTHS
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> list[Stage]:
        blocks = len(self.widths)
        check_image_size(image.shape[1:3], 2**blocks)
        block = functools.partial(ConvNorm, axis_name=self.axis_name, dtype=self.dtype, param_dtype=self.param_dtype)
        stages, positions = [], []
        x = image.astype(self.dtype)
        for i, width in enumerate(self.widths):
            look = x = block(width, name=f"encoder_{i}_0")(x, train=train)
            for j in range(refinements(i)):
                x = block(width, name=f"encoder_{i}_{j + 1}")(x, train=train)
            features = self.widths[min(i + 1, blocks - 1)]
            stages.append(Stage(f"encoder_{i}", look, x, features, "down"))
            x, position = max_pool(x)
            positions.append(position)
        for i in reversed(range(blocks)):
            width = self.widths[max(i - 1, 0)]
            look = x = max_unpool(x, positions[i])
            for j in range(refinements(i) + 1):
                x = block(width, name=f"decoder_{i}_{j}")(x, train=train)
            stages.append(Stage(f"decoder_{i}", look, x, width, "up"))
        return stages


def refinements(i: int) -> int:
    """Convolutions of block i after its first."""
    return 1 if i < 2 else 2


def check_image_size(image_size: tuple[int, ...], multiple: int) -> None:
    """Raises a ValueError that names the nearest sizes that do, unless height and width are multiples of `multiple`."""
    if any(side % multiple for side in image_size):
        fitting = tuple(max(round(side / multiple), 1) * multiple for side in image_size)
        raise ValueError(
            f"image size {tuple(image_size)}: the network halves both sides {multiple.bit_length() - 1} times, so "
            f"they must be multiples of {multiple}; {fitting} would do (config.data.options.image_size)"
        )
