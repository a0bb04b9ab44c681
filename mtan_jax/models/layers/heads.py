"""Heads: map a backbone's features to a task's prediction before its activation."""

import functools

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mtan_jax.models import ops
from mtan_jax.models.layers.conv import Conv, ConvNorm, Dropout
from mtan_jax.models.numerics import FLOAT32, Numerics


class Head(nn.Module):
    """conv3x3 and conv1x1, with no activation between them; the output is resized to the image."""

    channels: int
    image_size: tuple[int, int]
    numerics: Numerics = FLOAT32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W channels"]:
        del train
        x = Conv(x.shape[-1], numerics=self.numerics, name="conv_0")(x)
        return ops.resize(Conv(self.channels, 1, numerics=self.numerics, name="conv_1")(x), self.image_size)


class DeepLabHead(nn.Module):
    """DeepLabv3's atrous spatial pyramid pooling (Chen et al. 2017), conv3x3-BN-ReLU, conv1x1, resized to the image.

    Attributes:
        channels: channels of the prediction.
        image_size: height and width of the prediction.
        features: channels of the inner layers; 256 in DeepLabv3.
        rates: dilations of the pyramid.
        dropout: dropout rate after the pyramid.
        numerics: of all layers.
    """

    channels: int
    image_size: tuple[int, int]
    features: int = 256
    rates: tuple[int, ...] = (12, 24, 36)
    dropout: float = 0.5
    numerics: Numerics = FLOAT32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W channels"]:
        layer = functools.partial(ConvNorm, self.features, use_bias=False, numerics=self.numerics)
        branches = [layer(1, name="point")(x, train=train)]
        for rate in self.rates:
            branches.append(layer(dilation=rate, name=f"rate_{rate}")(x, train=train))
        mean = layer(1, name="mean")(x.mean((1, 2), keepdims=True), train=train)
        branches.append(jnp.broadcast_to(mean, branches[0].shape))
        x = layer(1, name="project")(jnp.concatenate(branches, -1), train=train)
        x = Dropout(self.dropout, numerics=self.numerics)(x, train=train)
        x = layer(name="refine")(x, train=train)
        return ops.resize(Conv(self.channels, 1, numerics=self.numerics, name="predict")(x), self.image_size)
