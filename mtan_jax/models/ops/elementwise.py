"""Elementwise operations on images, and the memory layout of predictions."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mtan_jax.models.ops import pixel_pairs, platforms

PIXEL_AXES = (-4, -3, -2)  # examples, height and width


def over_pixels(values: Float[Array, "*t c"]) -> Float[Array, "*t 1 1 1 c"]:
    """Reshapes per-channel values to broadcast over examples and pixels."""
    return jnp.expand_dims(values, PIXEL_AXES)


def add_bias(
    x: Float[Array, "*t b h w c"], bias: Float[Array, "*t c"] | Float[Array, " c"]
) -> Float[Array, "*t b h w c"]:
    """Adds per-channel values, in x's type."""
    bias = bias.reshape((1,) * (x.ndim - len(PIXEL_AXES) - bias.ndim) + bias.shape)
    return pixel_pairs.map_pixels(lambda x, bias: x + over_pixels(bias), (x,), (bias.astype(x.dtype),))


def multiply(x: Float[Array, "*t b h w c"], y: Float[Array, "*t b h w c"]) -> Float[Array, "*t b h w c"]:
    """Multiplies images pixel by pixel."""
    return pixel_pairs.map_pixels(jnp.multiply, (x, y))


def prediction_layout(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Returns x unchanged; on TPUs, stores it and its cotangent as [b, c, h, w].

    XLA for TPUs would keep a prediction, and everything between it and the loss, in the layout of the convolution
    before it, which pads the last axis to 128 elements. A prediction has few channels (docs/performance.md).
    """
    return platforms.select(x, default=lambda x: x, tpu=stored_channels_first)


def stored_channels_first(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """`prediction_layout` on TPUs."""
    return jnp.moveaxis(lax.optimization_barrier(jnp.moveaxis(x, -1, 1)), 1, -1)
