"""The layers that every network here is made of, with the numerics of the authors' PyTorch layers.

Arrays are channels-last. Where a layer takes `"... b h w c"`, a leading axis `t` may hold one feature map a task.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int8

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


@jax.custom_vjp
def max_pool(
    x: Float[Array, "*n h w c"],
) -> tuple[Float[Array, "*n h/2 w/2 c"], Int8[Array, "*n h/2 w/2 c"]]:
    """Max-pooling of 2x2 windows, and the position (0..3, row by row) of the maximum in each.

    The first maximum wins, as in PyTorch. Windows are compared pairwise, in slices: a test `window == maximum`
    may fail at the true maximum where XLA computes its two sides in different fusions.
    """
    top, top_position = _larger(x[..., 0::2, 0::2, :], 0, x[..., 0::2, 1::2, :], 1)
    bottom, bottom_position = _larger(x[..., 1::2, 0::2, :], 2, x[..., 1::2, 1::2, :], 3)
    return _larger(top, top_position, bottom, bottom_position)


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
    """Doubles height and width bilinearly with align_corners=True (the corner pixels keep their values)."""
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
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    moments = jnp.stack([x.mean((-4, -3, -2)), jnp.square(x).mean((-4, -3, -2))])
    if axis_name is not None:
        moments = lax.pmean(moments, axis_name)
    mean, mean_square = moments
    return mean, jnp.maximum(mean_square - jnp.square(mean), 0)


def normalise(
    x: Float[Array, "*t b h w c"],
    mean: Float[Array, "*t c"],
    variance: Float[Array, "*t c"],
    scale: Float[Array, "*t c"],
    bias: Float[Array, "*t c"],
) -> Float[Array, "*t b h w c"]:
    """BatchNorm's affine map, computed at least in float32 and returned in x's type."""
    factor = scale * lax.rsqrt(variance + BATCH_NORM_EPSILON)
    offset = bias - mean * factor
    factor, offset = (jnp.expand_dims(v, (-4, -3, -2)) for v in (factor, offset))
    return (x * factor + offset).astype(x.dtype)


def update_running(running: Float[Array, " c"], values: Float[Array, "t c"]) -> Float[Array, " c"]:
    """The running average after the values of every task have entered it in turn."""
    tasks = values.shape[0]
    age = jnp.arange(tasks - 1, -1, -1)[:, None]
    shares = (1 - BATCH_NORM_MOMENTUM) * BATCH_NORM_MOMENTUM**age
    return BATCH_NORM_MOMENTUM**tasks * running + (shares * values).sum(0)


class BatchNorm(nn.Module):
    """Batch normalisation with parameters common to all tasks and statistics for each.

    With a leading task axis, each task's features are normalised by their own moments, and the running averages are
    updated once a task, as if the tasks had passed one after the other. The running variance is the biased one, as in
    Flax (PyTorch's is larger by n/(n-1), n being the pixels of the batch).
    """

    numerics: Numerics = FLOAT32

    @nn.compact
    def __call__(self, x: Float[Array, "*t b h w c"], *, train: bool) -> Float[Array, "*t b h w c"]:
        features, dtype = (x.shape[-1],), self.numerics.param_dtype
        scale = self.param("scale", nn.initializers.ones, features, dtype)
        bias = self.param("bias", nn.initializers.zeros, features, dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, features, dtype)
        variance = self.variable("batch_stats", "var", jnp.ones, features, dtype)
        leading = (1,) * (x.ndim - 4)
        if not train:
            moments = (mean.value.reshape(*leading, -1), variance.value.reshape(*leading, -1))
        else:
            moments = batch_moments(x, None if self.is_initializing() else self.numerics.axis_name)
            if not self.is_initializing():
                mean.value = update_running(mean.value, moments[0].reshape(-1, *features))
                variance.value = update_running(variance.value, moments[1].reshape(-1, *features))
        return normalise(x, *moments, scale.reshape(*leading, -1), bias.reshape(*leading, -1))


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

    @nn.compact
    def __call__(self, x: Float[Array, "*t b h w c"]) -> Float[Array, "*t b H W d"]:
        padding = self.dilation * (self.kernel_size // 2)
        conv = nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            strides=self.stride,
            padding=((padding, padding), (padding, padding)),
            kernel_dilation=self.dilation,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            dtype=self.numerics.dtype,
            param_dtype=self.numerics.param_dtype,
            name="conv",
        )
        flat = conv(x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:]))
        return flat.reshape(*x.shape[:-3], *flat.shape[1:])


class ConvNorm(nn.Module):
    """Convolution, BatchNorm and, unless `relu` is False, ReLU."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    use_bias: bool = True
    relu: bool = True
    kernel_init: nn.initializers.Initializer = xavier_normal
    numerics: Numerics = FLOAT32

    @nn.compact
    def __call__(self, x: Float[Array, "*t b h w c"], *, train: bool) -> Float[Array, "*t b H W d"]:
        x = Conv(
            *(self.features, self.kernel_size, self.stride, self.dilation, self.use_bias, self.kernel_init),
            numerics=self.numerics,
            name="conv",
        )(x)
        x = BatchNorm(self.numerics, name="norm")(x, train=train)
        return nn.relu(x) if self.relu else x


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
