"""The layers that every network here is made of, with the numerics of the authors' PyTorch layers.

Arrays are channels-last. Where a layer takes `"... b h w c"`, a leading axis `t` may hold one feature map a task.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int8

# PyTorch's momentum 0.1 is the share of the new value, Flax' and ours that of the old one.
BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5

# torch.nn.init.xavier_normal_; Flax' own of that name draws from a truncated normal.
xavier_normal = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")


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

    Attributes:
        axis_name: devices over which the moments are taken in training; None: each device on its own.
        param_dtype: type of parameters and statistics.
    """

    axis_name: str | None = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*t b h w c"], *, train: bool) -> Float[Array, "*t b h w c"]:
        features = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, features, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, features, self.param_dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, features, self.param_dtype)
        variance = self.variable("batch_stats", "var", jnp.ones, features, self.param_dtype)
        leading = (1,) * (x.ndim - 4)
        if not train:
            moments = (mean.value.reshape(*leading, -1), variance.value.reshape(*leading, -1))
        else:
            moments = batch_moments(x, None if self.is_initializing() else self.axis_name)
            if not self.is_initializing():
                mean.value = update_running(mean.value, moments[0].reshape(-1, *features))
                variance.value = update_running(variance.value, moments[1].reshape(-1, *features))
        return normalise(x, *moments, scale.reshape(*leading, -1), bias.reshape(*leading, -1))


class Conv(nn.Module):
    """Convolution with bias, padded to keep height and width; one for all tasks where there is a task axis."""

    features: int
    kernel_size: int = 3
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*t b h w c"]) -> Float[Array, "*t b h w d"]:
        conv = nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            kernel_init=xavier_normal,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="conv",
        )
        flat = conv(x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:]))
        return flat.reshape(*x.shape[:-1], self.features)


class ConvNorm(nn.Module):
    """conv3x3 - BatchNorm - ReLU."""

    features: int
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*t b h w c"], *, train: bool) -> Float[Array, "*t b h w d"]:
        x = Conv(self.features, dtype=self.dtype, param_dtype=self.param_dtype, name="conv")(x)
        x = BatchNorm(axis_name=self.axis_name, param_dtype=self.param_dtype, name="norm")(x, train=train)
        return nn.relu(x)
