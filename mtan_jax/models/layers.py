"""The layers that every network here is made of, with the numerics of the authors' PyTorch layers.

Arrays are channels-last. Where a layer takes `"... b h w c"`, a leading axis `t` may hold one feature map a task.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int8

from mtan_jax import over_devices
from mtan_jax.models import pixel_pairs
from mtan_jax.models.convolution import convolve

# PyTorch's momentum 0.1 is the share of the new value, Flax' and ours that of the old one.
BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5

# torch.nn.init.xavier_normal_; Flax' own of that name draws from a truncated normal.
xavier_normal = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")


@dataclasses.dataclass(frozen=True)
class Numerics:
    """How every layer of a network computes.

    Attributes:
        axis_name: devices over which BatchNorm takes its moments; None: each device on its own.
        dtype: type of the computation; moments, and predictions, are float32 at least.
        param_dtype: type of parameters and statistics.
    """

    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32


FLOAT32 = Numerics()

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


@jax.custom_vjp
def max_pool(
    x: Float[Array, "*n h w c"],
) -> tuple[Float[Array, "*n h/2 w/2 c"], Int8[Array, "*n h/2 w/2 c"]]:
    """Max-pooling of 2x2 windows, and the position (0..3, row by row) of the maximum in each.

    The first maximum wins, as in PyTorch. Windows are compared pairwise, in slices: a test `window == maximum`
    may fail at the true maximum where XLA computes its two sides in different fusions.
    """
    if pixel_pairs.suits(*x.shape[-2:]):
        return pixel_pairs.on_tpus(_pool_pairs, _pool, x)
    return _pool(x)


def _pool(x: Array) -> tuple[Array, Array]:
    (a, b), (c, d) = ([x[..., i::2, j::2, :] for j in range(2)] for i in range(2))
    return _larger(*_larger(a, 0, b, 1), *_larger(c, 2, d, 3))


def _pool_pairs(x: Array) -> tuple[Array, Array]:
    # Rows first, so that what is split into halves, which XLA copies, is half as much.
    joined = pixel_pairs.join(x)
    values, position = _larger(joined[..., 0::2, :, :], 0, joined[..., 1::2, :, :], 2)
    (left, right), (on_left, on_right) = (jnp.split(array, 2, axis=-1) for array in (values, position))
    # The larger of the two wins, whatever becomes of a tie; of equal ones that of the upper row is the first.
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
    """Puts each value at its position (of `max_pool`) in a 2x2 window of zeros."""
    *batch, height, width, channels = x.shape
    corner = jnp.arange(4, dtype=jnp.int8).reshape((1,) * len(batch) + (1, 2, 1, 2, 1))
    windows = jnp.where(
        jnp.expand_dims(position, (-4, -2)) == corner, jnp.expand_dims(x, (-4, -2)), jnp.zeros((), x.dtype)
    )
    return windows.reshape(*batch, 2 * height, 2 * width, channels)


def upsample(x: Float[Array, "*n h w c"]) -> Float[Array, "*n 2*h 2*w c"]:
    """Doubles height and width bilinearly with align_corners=True (the corner pixels keep their values).

    On TPUs by products with a matrix, which move half the bytes; on others by slices, which CPUs do much faster.
    """
    return pixel_pairs.on_tpus(_double_by_products, _double_by_slices, x)


def _double_by_products(x: Float[Array, "*n h w c"]) -> Float[Array, "*n 2*h 2*w c"]:
    *batch, height, width, channels = x.shape
    product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    down, across = (jnp.asarray(_bilinear_matrix(size, 2 * size), x.dtype) for size in (height, width))
    if not pixel_pairs.suits(2 * width, channels):
        return product("...hwc,Ww->...hWc", product("...hwc,Hh->...Hwc", x, down), across)
    x = product("...hwc,Wjw->...hWjc", x, across.reshape(width, 2, width))
    x = product("...hwc,Hh->...Hwc", x.reshape(*batch, height, width, 2 * channels), down)
    return pixel_pairs.split(x)


def _double_by_slices(x: Float[Array, "*n h w c"]) -> Float[Array, "*n 2*h 2*w c"]:
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
    """Resizes to `size` (height, width) bilinearly with align_corners=True: the corner pixels keep their values."""
    for axis, length in zip((1, 2), size, strict=True):
        if x.shape[axis] != length:
            weights = jnp.asarray(_bilinear_matrix(x.shape[axis], length), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(x, weights, (axis, 1)), -1, axis)
    return x


def _bilinear_matrix(old: int, new: int) -> np.ndarray:
    """`new` x `old` weights; each row has at most two that are not 0."""
    place = np.linspace(0, old - 1, new)[:, None]
    return np.clip(1 - np.abs(place - np.arange(old)), 0, None)


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
    return over_devices.mean(means, axis_name)


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
        y = x * _over_pixels(factor) + _over_pixels(offset)
        return _ACTIVATIONS[activation](y).astype(x.dtype)

    return pixel_pairs.each_pixel(affine, (x,), (factor, offset))


def _largest(x: Float[Array, "*t b h w c"], scale: Float[Array, "*t c"]) -> tuple[Array, Array]:
    """Of each 2x2 window the largest, or where the scale is below 0 the smallest, and its position."""
    sign = jnp.where(scale < 0, -1, 1).astype(x.dtype)

    def signed(x: Array, sign: Array) -> Array:
        return x * _over_pixels(sign)

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
        return (x - _over_pixels(mean)) * _over_pixels(inverse)

    def before_activation(y: Array, cotangent: Array) -> Array:
        return _DERIVATIVES[activation](cotangent.astype(jnp.promote_types(x.dtype, jnp.float32)), y)

    def sums(x: Array, y: Array, cotangent: Array, *values: Array) -> tuple[Array, Array]:
        found = before_activation(y, cotangent)
        return found.sum(_PIXELS), (found * normed(x, *values)).sum(_PIXELS)

    # Pixels that pooling leaves out have no gradient to add.
    for_bias, for_scale = found = pixel_pairs.sum_pixels(sums, (seen, y, cotangent), (mean, inverse))
    values = (mean, inverse, scale * inverse, *_means(found, x.shape, axis_name))

    def of_input(x: Array, gradient: Array, mean: Array, inverse: Array, *three: Array) -> Array:
        slope, of_bias, of_scale = map(_over_pixels, three)
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


def _over_pixels(values: Float[Array, "*t c"]) -> Float[Array, "*t 1 1 1 c"]:
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


class _Weights(nn.Module):
    """Kernel and bias of a convolution; the bias is 0 where there is none."""

    shape: tuple[int, int, int, int]
    use_bias: bool
    kernel_init: nn.initializers.Initializer
    param_dtype: Any

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "k k c d"], Float[Array, " d"] | float]:
        kernel = self.param("kernel", self.kernel_init, self.shape, self.param_dtype)
        if not self.use_bias:
            return kernel, 0.0
        return kernel, self.param("bias", nn.initializers.zeros, self.shape[-1:], self.param_dtype)


class Conv(nn.Module):
    """Convolution, one for all tasks where there is a task axis.

    Padded by `dilation * (kernel_size // 2)` zeros on every side, which keeps height and width at stride 1.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = xavier_normal
    numerics: Numerics = FLOAT32

    def __call__(self, x: Float[Array, "*t b h w c"]) -> Float[Array, "*t b H W d"]:
        y, bias = self.without_bias(x)
        bias = jnp.broadcast_to(jnp.asarray(bias, y.dtype), y.shape[-1:])
        return pixel_pairs.each_pixel(lambda y, bias: y + _over_pixels(bias), (y,), (bias,))

    @nn.compact
    def without_bias(
        self, x: Float[Array, "*t b h w c"]
    ) -> tuple[Float[Array, "*t b H W d"], Float[Array, " d"] | float]:
        """The output before the bias is added, and the bias."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel, bias = _Weights(shape, self.use_bias, self.kernel_init, self.numerics.param_dtype, name="conv")()
        x, kernel = x.astype(self.numerics.dtype), kernel.astype(self.numerics.dtype)
        flat = x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])
        y = convolve(flat, kernel, stride=self.stride, dilation=self.dilation)
        return y.reshape(*x.shape[:-3], *y.shape[1:]), bias


class ConvNorm(nn.Module):
    """Convolution, BatchNorm, unless `relu` is False ReLU, and with `pool` max-pooling by 2."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    use_bias: bool = True
    relu: bool = True
    kernel_init: nn.initializers.Initializer = xavier_normal
    numerics: Numerics = FLOAT32
    pool: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*t b h w c"], *, train: bool) -> Float[Array, "*t b H W d"]:
        conv = Conv(
            *(self.features, self.kernel_size, self.stride, self.dilation, self.use_bias, self.kernel_init),
            numerics=self.numerics,
            name="conv",
        )
        x, offset = conv.without_bias(x)
        norm = BatchNorm(self.numerics, "relu" if self.relu else None, self.pool, name="norm")
        return norm(x, train=train, offset=offset)


class Dropout(nn.Module):
    """Sets a share `rate` of the elements to 0 in training and divides the others by what is left.

    What an example loses depends on its place in the whole batch, not on the number of devices: the answer of 4 is
    that of 1. Needs `rngs={"dropout": key}`, the same key on every device.
    """

    rate: float
    numerics: Numerics = FLOAT32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        if not train or self.rate == 0 or self.is_initializing():
            return x
        rows = jnp.arange(x.shape[0])
        if self.numerics.axis_name is not None:
            rows = rows + x.shape[0] * lax.axis_index(self.numerics.axis_name)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), rows)
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
        return jnp.where(kept, x / (1 - self.rate), jnp.zeros((), x.dtype))
