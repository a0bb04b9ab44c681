"""SegNet (Badrinarayanan, Kendall, Cipolla, 2017) as in the MTAN authors' code."""

import functools

from flax import linen as nn

from mtan_jax.models import ops
from mtan_jax.models.layers.conv import ConvNorm
from mtan_jax.models.layers.heads import Head
from mtan_jax.models.numerics import FLOAT32, Numerics
from mtan_jax.models.stage import Backbone, Flow, Stage

WIDTHS = (64, 128, 256, 512, 512)
WIDE = (64, 128, 256, 512, 1024)


def segnet(
    width: float = 1.0,
    numerics: Numerics = FLOAT32,
    *,
    widths: tuple[int, ...] = WIDTHS,
    depth: int = 1,
) -> Backbone:
    """Makes VGG-16's convolutions and their mirror image, connected by max-pooling positions.

    A layer is conv3x3-BN-ReLU. Encoder block i has layers with `widths[i]` channels, followed by max-pooling: two
    layers in the two finest blocks and three in the others. Decoder block i unpools with the positions of encoder block
    i and has the same number of layers, with `widths[max(i-1, 0)]` channels. The mask of an encoder block is computed
    from the output of its first layer, that of a decoder block from its unpooled features. Both are applied to the
    output of the block's last layer.

    Args:
        width: multiplies the channels.
        numerics: of all layers.
        widths: channels of the encoder's blocks, finest first.
        depth: convolutions per layer; 2 in the authors' "split, deep".

    Returns:
        A backbone with blocks encoder_0 (the finest) .. encoder_4, decoder_4 .. decoder_0.
    """
    scaled = [max(round(w * width), 1) for w in widths]
    levels = range(len(scaled))
    encoder = {
        f"encoder_{i}": functools.partial(
            Encoder, scaled[i], scaled[min(i + 1, levels[-1])], layers(i), depth, numerics=numerics
        )
        for i in levels
    }
    decoder = {
        f"decoder_{i}": functools.partial(
            Decoder, scaled[max(i - 1, 0)], layers(i), depth, last=None if i else scaled[0], numerics=numerics
        )
        for i in reversed(levels)
    }
    return Backbone({**encoder, **decoder}, functools.partial(Head, numerics=numerics), 2 ** len(scaled), numerics)


def layers(level: int) -> int:
    """Returns the number of layers of an encoder or decoder block."""
    return 2 if level < 2 else 3


class Encoder(nn.Module):
    """Layers at one resolution, then max-pooling; its positions are pushed to the flow's memory.

    Attributes:
        features: channels.
        shared_features: output channels of the shared extractor after the mask; None in a network's last block, which
            has neither a shared extractor nor pooling.
        layers: number of layers.
        depth: convolutions per layer.
        numerics: of all layers.
    """

    features: int
    shared_features: int | None
    layers: int
    depth: int = 1
    numerics: Numerics = FLOAT32

    @nn.compact
    def __call__(self, flow: Flow, *, train: bool) -> tuple[Stage, Flow]:
        x = flow.x
        for i in range(self.layers * self.depth):
            x = ConvNorm(self.features, numerics=self.numerics, name=f"layer_{i}")(x, train=train)
            if i == self.depth - 1:
                look = x
        if self.shared_features is None:
            return Stage(look, x, self.features), Flow(x)
        shared = functools.partial(ConvNorm, self.shared_features, pool=True, numerics=self.numerics)
        stage = Stage(look, x, self.features, shared, "down", shared_pools=True)
        pooled, position = ops.max_pool(x)
        return stage, Flow(pooled, (position, *flow.memory))


class Decoder(nn.Module):
    """Max-unpooling with the positions in the flow's memory, then layers.

    Attributes:
        features: output channels of the layers and of the shared extractor.
        layers: number of layers.
        depth: convolutions per layer.
        last: for the finest block, the output channels of its last convolution; its other convolutions then keep the
            number of channels of the input. None for the other blocks.
        numerics: of all layers.
    """

    features: int
    layers: int
    depth: int = 1
    last: int | None = None
    numerics: Numerics = FLOAT32

    @nn.compact
    def __call__(self, flow: Flow, *, train: bool) -> tuple[Stage, Flow]:
        position, *memory = flow.memory
        look = x = ops.max_unpool(flow.x, position)
        inner = x.shape[-1] if self.last else self.features
        features = [inner] * (self.layers * self.depth - 1) + [self.last or self.features]
        for i, channels in enumerate(features):
            x = ConvNorm(channels, numerics=self.numerics, name=f"layer_{i}")(x, train=train)
        shared = functools.partial(ConvNorm, self.features, numerics=self.numerics)
        return Stage(look, x, self.features, shared, "up"), Flow(x, tuple(memory))
