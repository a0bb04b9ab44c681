"""BatchNorm's computations, fused with the activation and max-pooling that follow, with a memory-saving gradient.

Arrays are channels-last. A leading axis `t` in `"*t b h w c"` holds one feature map per task.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mtan_jax.models.ops import pixel_pairs
from mtan_jax.models.ops.elementwise import PIXEL_AXES, over_pixels
from mtan_jax.models.ops.pooling import max_pool, max_unpool
from mtan_jax.runtime import collectives

EPSILON = 1e-5

Activation = Literal["relu", "sigmoid"] | None
_ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    None: lambda x: x,
    "relu": lambda x: jnp.maximum(x, 0),
    "sigmoid": jax.nn.sigmoid,
}
# (cotangent of the activation's output, that output) -> cotangent of its input.
_DERIVATIVES: dict[Activation, Callable[[Array, Array], Array]] = {
    None: lambda cotangent, y: cotangent,
    "relu": lambda cotangent, y: jnp.where(y > 0, cotangent, 0),
    "sigmoid": lambda cotangent, y: cotangent * y.astype(cotangent.dtype) * (1 - y.astype(cotangent.dtype)),
}


def batch_moments(
    x: Float[Array, "*t b h w c"], axis_name: str | None
) -> tuple[Float[Array, "*t c"], Float[Array, "*t c"]]:
    """Mean and biased variance over examples and pixels of all devices on `axis_name`, in float32 or wider."""
    mean, mean_square = _means(pixel_pairs.sum_pixels(_power_sums, (x,)), x.shape, axis_name)
    return mean, jnp.maximum(mean_square - jnp.square(mean), 0)


def _power_sums(x: Array) -> tuple[Array, Array]:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x.sum(PIXEL_AXES), jnp.square(x).sum(PIXEL_AXES)


def _means(sums: tuple[Array, ...], shape: tuple[int, ...], axis_name: str | None) -> tuple[Array, ...]:
    """Divides sums over pixels by the number of pixels in `shape`, and averages over devices."""
    means = tuple(values / math.prod(shape[axis] for axis in PIXEL_AXES) for values in sums)
    return collectives.mean(means, axis_name)


def normalize(
    x: Float[Array, "*t b h w c"],
    mean: Float[Array, "*t c"],
    variance: Float[Array, "*t c"],
    scale: Float[Array, "*t c"],
    bias: Float[Array, "*t c"],
    activation: Activation = None,
    pool: bool = False,
) -> Float[Array, "*t b H W c"]:
    """Applies BatchNorm with given moments, an activation and, if asked, max-pooling by 2.

    Computed in float32 or wider and returned in x's type. Pooling runs before the affine map, on a quarter of the
    pixels; the result is bit-identical, because map and rounding are monotonic in each channel. If rounding or a scale
    of 0 makes outputs of a window equal, the gradient goes to the pixel selected before the map.
    """
    if pool:
        x, _ = _max_pool_by_sign(x, scale)
    factor = scale * lax.rsqrt(variance + EPSILON)
    offset = bias - mean * factor

    def affine(x: Array, factor: Array, offset: Array) -> Array:
        y = x * over_pixels(factor) + over_pixels(offset)
        return _ACTIVATIONS[activation](y).astype(x.dtype)

    return pixel_pairs.map_pixels(affine, (x,), (factor, offset))


def _max_pool_by_sign(x: Float[Array, "*t b h w c"], scale: Float[Array, "*t c"]) -> tuple[Array, Array]:
    """The largest pixel of each 2x2 window (the smallest where the scale is negative) and its position."""
    sign = jnp.where(scale < 0, -1, 1).astype(x.dtype)

    def signed(x: Array, sign: Array) -> Array:
        return x * over_pixels(sign)

    values, position = max_pool(pixel_pairs.map_pixels(signed, (x,), (sign,)))
    return pixel_pairs.map_pixels(signed, (values,), (sign,)), position


def normalize_batch(
    x: Float[Array, "*t b h w c"],
    scale: Float[Array, "*t c"],
    bias: Float[Array, "*t c"],
    axis_name: str | None,
    activation: Activation = None,
    pool: bool = False,
) -> tuple[Float[Array, "*t b H W c"], tuple[Float[Array, "*t c"], Float[Array, "*t c"]]]:
    """Applies BatchNorm with the batch's own moments, as in training.

    Args:
        x: features.
        scale: per channel.
        bias: per channel.
        axis_name: devices over which the moments are computed; None for each device on its own.
        activation: applied to the result.
        pool: whether max-pooling by 2 follows.

    Returns:
        The output of `normalize`, and mean and variance of `batch_moments`. The output's gradient includes the
        dependence of the moments on x. The returned moments are constants.
    """
    mean, variance = batch_moments(lax.stop_gradient(x), axis_name)
    scale, bias = (jnp.broadcast_to(parameter, mean.shape) for parameter in (scale, bias))
    return _normalize_by_own(x, mean, variance, scale, bias, activation, axis_name, pool), (mean, variance)


# By default, JAX keeps x in float32 and the intermediates of the moments for the backward pass. This gradient keeps
# only arrays that exist anyway: the input and the output, in the type of the computation. With pooling it also keeps
# the selected pixels and their positions, a quarter of the input each.
@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _normalize_by_own(
    x: Array,
    mean: Array,
    variance: Array,
    scale: Array,
    bias: Array,
    activation: Activation,
    axis_name: str | None,
    pool: bool,
) -> Array:
    """`normalize`, with a gradient that treats the moments as those of x over all devices on `axis_name`."""
    del axis_name
    return normalize(x, mean, variance, scale, bias, activation, pool)


class _Residuals(NamedTuple):
    """Arrays kept for the backward pass. `selected` holds the pixels that pooling selected; without pooling it is x."""

    x: Array
    selected: Array
    position: Array | None
    y: Array
    mean: Array
    variance: Array
    scale: Array


def _normalize_forward(
    x: Array,
    mean: Array,
    variance: Array,
    scale: Array,
    bias: Array,
    activation: Activation,
    axis_name: str | None,
    pool: bool,
) -> tuple[Array, _Residuals]:
    del axis_name
    selected, position = _max_pool_by_sign(x, scale) if pool else (x, None)
    y = normalize(selected, mean, variance, scale, bias, activation)
    return y, _Residuals(x, selected, position, y, mean, variance, scale)


def _normalize_backward(
    activation: Activation, axis_name: str | None, pool: bool, kept: _Residuals, cotangent: Array
) -> tuple[Array, ...]:
    del pool
    x, mean = kept.x, kept.mean
    inverse = lax.rsqrt(kept.variance + EPSILON)

    def normed(x: Array, mean: Array, inverse: Array) -> Array:
        return (x - over_pixels(mean)) * over_pixels(inverse)

    def before_activation(y: Array, cotangent: Array) -> Array:
        return _DERIVATIVES[activation](cotangent.astype(jnp.promote_types(x.dtype, jnp.float32)), y)

    def sums(x: Array, y: Array, cotangent: Array, *values: Array) -> tuple[Array, Array]:
        gradient = before_activation(y, cotangent)
        return gradient.sum(PIXEL_AXES), (gradient * normed(x, *values)).sum(PIXEL_AXES)

    # Pixels that pooling drops add nothing to the sums.
    parameter_gradients = pixel_pairs.sum_pixels(sums, (kept.selected, kept.y, cotangent), (mean, inverse))
    for_bias, for_scale = parameter_gradients
    values = (mean, inverse, kept.scale * inverse, *_means(parameter_gradients, x.shape, axis_name))

    def input_gradient(x: Array, gradient: Array, mean: Array, inverse: Array, *three: Array) -> Array:
        slope, of_bias, of_scale = map(over_pixels, three)
        return (slope * (gradient - of_bias - normed(x, mean, inverse) * of_scale)).astype(x.dtype)

    def fused(x: Array, y: Array, cotangent: Array, *values: Array) -> Array:
        return input_gradient(x, before_activation(y, cotangent), *values)

    if kept.position is not None:
        pooled = pixel_pairs.map_pixels(lambda *both: before_activation(*both).astype(x.dtype), (kept.y, cotangent))
        for_x = pixel_pairs.map_pixels(input_gradient, (x, max_unpool(pooled, kept.position)), values)
    else:
        for_x = pixel_pairs.map_pixels(fused, (x, kept.y, cotangent), values)
    return for_x, jnp.zeros_like(mean), jnp.zeros_like(kept.variance), for_scale, for_bias


_normalize_by_own.defvjp(_normalize_forward, _normalize_backward)
