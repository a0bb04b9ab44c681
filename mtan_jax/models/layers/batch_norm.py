"""Batch normalisation, what follows it at once, and the gradient of both, with the numerics of PyTorch's layer.

Arrays are channels-last. Where it says `"*t b h w c"`, a leading axis `t` may hold one feature map a task.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from mtan_jax.models.numerics import FLOAT32, Numerics
from mtan_jax.models.ops import pixel_pairs
from mtan_jax.models.ops.resample import max_pool, max_unpool
from mtan_jax.runtime import collectives

# PyTorch's momentum 0.1 is the share of the new value, Flax' and ours that of the old one.
BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5

_PIXELS = (-4, -3, -2)  # axes of examples, height and width

Activation = Literal["relu", "sigmoid"] | None
_ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    None: lambda x: x,
    "relu": lambda x: jnp.maximum(x, 0),
    "sigmoid": nn.sigmoid,
}
# From the cotangent of an activation's output and that output to the cotangent of its input.
_DERIVATIVES: dict[Activation, Callable[[Array, Array], Array]] = {
    None: lambda cotangent, y: cotangent,
    "relu": lambda cotangent, y: jnp.where(y > 0, cotangent, 0),
    "sigmoid": lambda cotangent, y: cotangent * y.astype(cotangent.dtype) * (1 - y.astype(cotangent.dtype)),
}


def batch_moments(
    x: Float[Array, "*t b h w c"], axis_name: str | None
) -> tuple[Float[Array, "*t c"], Float[Array, "*t c"]]:
    """Mean and biased variance over examples and pixels of all devices on `axis_name`, at least in float32."""
    mean, mean_square = _means(pixel_pairs.sum_pixels(_power_sums, (x,)), x.shape, axis_name)
    return mean, jnp.maximum(mean_square - jnp.square(mean), 0)


def _power_sums(x: Array) -> tuple[Array, Array]:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x.sum(_PIXELS), jnp.square(x).sum(_PIXELS)


def _means(sums: tuple[Array, ...], shape: tuple[int, ...], axis_name: str | None) -> tuple[Array, ...]:
    """From sums over the pixels of images of a shape, on each device."""
    means = tuple(values / math.prod(shape[axis] for axis in _PIXELS) for values in sums)
    return collectives.mean(means, axis_name)


def normalise(
    x: Float[Array, "*t b h w c"],
    mean: Float[Array, "*t c"],
    variance: Float[Array, "*t c"],
    scale: Float[Array, "*t c"],
    bias: Float[Array, "*t c"],
    activation: Activation = None,
    pool: bool = False,
) -> Float[Array, "*t b H W c"]:
    """BatchNorm's affine map and an activation, computed at least in float32 and returned in x's type.

    With `pool`, `max_pool` of that, which costs less the other way round: the map of a channel keeps the order of
    pixels, or turns it round where the scale is below 0, and so does rounding. Of pixels that rounding or a scale of 0
    makes equal, the gradient goes to the one that was largest before.
    """
    if pool:
        x, _ = _largest(x, scale)
    factor = scale * lax.rsqrt(variance + BATCH_NORM_EPSILON)
    offset = bias - mean * factor

    def affine(x: Array, factor: Array, offset: Array) -> Array:
        y = x * over_pixels(factor) + over_pixels(offset)
        return _ACTIVATIONS[activation](y).astype(x.dtype)

    return pixel_pairs.each_pixel(affine, (x,), (factor, offset))


def _largest(x: Float[Array, "*t b h w c"], scale: Float[Array, "*t c"]) -> tuple[Array, Array]:
    """Of each 2x2 window the largest, or where the scale is below 0 the smallest, and its position."""
    sign = jnp.where(scale < 0, -1, 1).astype(x.dtype)

    def signed(x: Array, sign: Array) -> Array:
        return x * over_pixels(sign)

    values, position = max_pool(pixel_pairs.each_pixel(signed, (x,), (sign,)))
    return pixel_pairs.each_pixel(signed, (values,), (sign,)), position


def normalise_batch(
    x: Float[Array, "*t b h w c"],
    scale: Float[Array, "*t c"],
    bias: Float[Array, "*t c"],
    axis_name: str | None,
    activation: Activation = None,
    pool: bool = False,
) -> tuple[Float[Array, "*t b H W c"], tuple[Float[Array, "*t c"], Float[Array, "*t c"]]]:
    """BatchNorm in training: normalises by the batch's own moments.

    Args:
        x: features.
        scale: of a channel.
        bias: of a channel.
        axis_name: devices over which the moments are taken.
        activation: what follows.
        pool: whether max-pooling follows, which halves height and width.

    Returns:
        What `normalise` gives, and the moments, `batch_moments`, which are constants to a gradient. That of the former
        takes in their dependence on x.
    """
    mean, variance = batch_moments(lax.stop_gradient(x), axis_name)
    scale, bias = (jnp.broadcast_to(parameter, mean.shape) for parameter in (scale, bias))
    return _normalise_by_own(x, mean, variance, scale, bias, activation, axis_name, pool), (mean, variance)


# Of its own accord, JAX keeps x in float32, and what leads to the moments, for the backward pass. What is kept here are
# arrays that are there in any case, the input and the output, in the type of the computation; with pooling also the
# largest pixels and their positions, a quarter of the input each.
@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _normalise_by_own(
    x: Array,
    mean: Array,
    variance: Array,
    scale: Array,
    bias: Array,
    activation: Activation,
    axis_name: str | None,
    pool: bool,
) -> Array:
    """`normalise` by moments that are those of x itself over all devices on `axis_name`."""
    del axis_name
    return normalise(x, mean, variance, scale, bias, activation, pool)


def _normalise_forward(
    x: Array, mean: Array, variance: Array, scale: Array, bias: Array, *settings: Any
) -> tuple[Array, tuple[Any, ...]]:
    activation, _, pool = settings
    seen, position = _largest(x, scale) if pool else (x, None)
    y = normalise(seen, mean, variance, scale, bias, activation)
    return y, (x, seen, position, y, mean, variance, scale)


def _normalise_backward(
    activation: Activation, axis_name: str | None, pool: bool, kept: tuple[Any, ...], cotangent: Array
) -> tuple[Array, ...]:
    x, seen, position, y, mean, variance, scale = kept
    inverse = lax.rsqrt(variance + BATCH_NORM_EPSILON)

    def normed(x: Array, mean: Array, inverse: Array) -> Array:
        return (x - over_pixels(mean)) * over_pixels(inverse)

    def before_activation(y: Array, cotangent: Array) -> Array:
        return _DERIVATIVES[activation](cotangent.astype(jnp.promote_types(x.dtype, jnp.float32)), y)

    def sums(x: Array, y: Array, cotangent: Array, *values: Array) -> tuple[Array, Array]:
        found = before_activation(y, cotangent)
        return found.sum(_PIXELS), (found * normed(x, *values)).sum(_PIXELS)

    # Pixels that pooling leaves out have no gradient to add.
    for_bias, for_scale = found = pixel_pairs.sum_pixels(sums, (seen, y, cotangent), (mean, inverse))
    values = (mean, inverse, scale * inverse, *_means(found, x.shape, axis_name))

    def of_input(x: Array, gradient: Array, mean: Array, inverse: Array, *three: Array) -> Array:
        slope, of_bias, of_scale = map(over_pixels, three)
        return (slope * (gradient - of_bias - normed(x, mean, inverse) * of_scale)).astype(x.dtype)

    def of_both(x: Array, y: Array, cotangent: Array, *values: Array) -> Array:
        return of_input(x, before_activation(y, cotangent), *values)

    if pool:
        pooled = pixel_pairs.each_pixel(lambda *both: before_activation(*both).astype(x.dtype), (y, cotangent))
        for_x = pixel_pairs.each_pixel(of_input, (x, max_unpool(pooled, position)), values)
    else:
        for_x = pixel_pairs.each_pixel(of_both, (x, y, cotangent), values)
    return for_x, jnp.zeros_like(mean), jnp.zeros_like(variance), for_scale, for_bias


_normalise_by_own.defvjp(_normalise_forward, _normalise_backward)


def over_pixels(values: Float[Array, "*t c"]) -> Float[Array, "*t 1 1 1 c"]:
    """Values of channels, to go with the pixels of images."""
    return jnp.expand_dims(values, _PIXELS)


def update_running(running: Float[Array, " c"], values: Float[Array, "t c"]) -> Float[Array, " c"]:
    """The running average after the values of every task have entered it in turn."""
    tasks = values.shape[0]
    age = jnp.arange(tasks - 1, -1, -1)[:, None]
    shares = (1 - BATCH_NORM_MOMENTUM) * BATCH_NORM_MOMENTUM**age
    return BATCH_NORM_MOMENTUM**tasks * running + (shares * values).sum(0)


class BatchNorm(nn.Module):
    """Batch normalisation with parameters common to all tasks and statistics for each, and an activation.

    With a leading task axis, each task's features are normalised by their own moments, and the running averages are
    updated once a task, as if the tasks had passed one after the other. The running variance is the biased one, as in
    Flax (PyTorch's is larger by n/(n-1), n being the pixels of the batch).

    `offset` [c] is what should have been added to x: moments of the batch take it away again, so it is never added,
    and counts in the running mean alone. With `pool`, max-pooling by 2 follows.
    """

    numerics: Numerics = FLOAT32
    activation: Activation = None
    pool: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "*t b h w c"], *, train: bool, offset: Float[Array, " c"] | float = 0.0
    ) -> Float[Array, "*t b H W c"]:
        features, dtype = (x.shape[-1],), self.numerics.param_dtype
        scale = self.param("scale", nn.initializers.ones, features, dtype)
        bias = self.param("bias", nn.initializers.zeros, features, dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, features, dtype)
        variance = self.variable("batch_stats", "var", jnp.ones, features, dtype)
        affine = [parameter.reshape(*(1,) * (x.ndim - 4), -1) for parameter in (scale, bias)]
        if not train:
            running = [moment.reshape(affine[0].shape) for moment in (mean.value - offset, variance.value)]
            return normalise(x, running[0], running[1], affine[0], affine[1], self.activation, self.pool)
        axis_name = None if self.is_initializing() else self.numerics.axis_name
        y, moments = normalise_batch(x, affine[0], affine[1], axis_name, self.activation, self.pool)
        if not self.is_initializing():
            means = moments[0].reshape(-1, *features) + jnp.reshape(jnp.asarray(offset), (1, -1))
            mean.value = update_running(mean.value, means)
            variance.value = update_running(variance.value, moments[1].reshape(-1, *features))
        return y
