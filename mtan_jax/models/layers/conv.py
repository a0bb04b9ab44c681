"""The layers with kernels that every network here is made of, with the numerics of the authors' PyTorch layers.

Arrays are channels-last. Where a layer takes `"*t b h w c"`, a leading axis `t` may hold one feature map a task.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from mtan_jax.models.layers.batch_norm import BatchNorm, over_pixels
from mtan_jax.models.numerics import FLOAT32, Numerics
from mtan_jax.models.ops import pixel_pairs
from mtan_jax.models.ops.convolution import convolve

# torch.nn.init.xavier_normal_; Flax' own of that name draws from a truncated normal.
xavier_normal = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")


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
        return pixel_pairs.each_pixel(lambda y, bias: y + over_pixels(bias), (y,), (bias,))

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
