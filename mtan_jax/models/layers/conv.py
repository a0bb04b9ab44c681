"""Convolutions, and convolution with BatchNorm and activation, with the numerics of the authors' PyTorch layers.

Arrays are channels-last. A leading axis `t` in `"*t b h w c"` holds one feature map per task; all use one kernel.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mtan_jax.models import ops
from mtan_jax.models.layers.batch_norm import BatchNorm
from mtan_jax.models.numerics import FLOAT32, Numerics

# torch.nn.init.xavier_normal_. Flax's initializer of that name draws from a truncated normal.
xavier_normal = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")


class _Weights(nn.Module):
    """Kernel and bias of a convolution; the bias is 0.0 if there is none."""

    shape: tuple[int, int, int, int]
    use_bias: bool
    kernel_init: nn.initializers.Initializer
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "k k c d"], Float[Array, " d"] | float]:
        kernel = self.param("kernel", self.kernel_init, self.shape, self.param_dtype)
        if not self.use_bias:
            return kernel, 0.0
        return kernel, self.param("bias", nn.initializers.zeros, self.shape[-1:], self.param_dtype)


class Conv(nn.Module):
    """Convolution, padded by `dilation * (kernel_size // 2)` zeros on every side.

    A sequence of inputs is convolved as if concatenated along channels, without storing the concatenation.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = xavier_normal
    numerics: Numerics = FLOAT32

    def __call__(
        self, x: Float[Array, "*t b h w c"] | Sequence[Float[Array, "*t b h w _"]]
    ) -> Float[Array, "*t b H W d"]:
        y, bias = self.without_bias(x)
        return ops.add_bias(y, jnp.broadcast_to(jnp.asarray(bias, y.dtype), y.shape[-1:]))

    @nn.compact
    def without_bias(
        self, x: Float[Array, "*t b h w c"] | Sequence[Float[Array, "*t b h w _"]]
    ) -> tuple[Float[Array, "*t b H W d"], Float[Array, " d"] | float]:
        """Returns the convolution without its bias, and the bias."""
        parts: list[Array] = [x] if isinstance(x, jax.Array | np.ndarray) else list(x)
        shape = (self.kernel_size, self.kernel_size, sum(part.shape[-1] for part in parts), self.features)
        kernel, bias = _Weights(shape, self.use_bias, self.kernel_init, self.numerics.param_dtype, name="conv")()
        axes = parts[0].shape[:-3]
        flat = [part.astype(self.numerics.dtype).reshape(math.prod(axes), *part.shape[-3:]) for part in parts]
        kernel = kernel.astype(self.numerics.dtype)
        y = ops.conv_concatenated(flat, kernel, stride=self.stride, dilation=self.dilation)
        return y.reshape(*axes, *y.shape[1:]), bias


class ConvNorm(nn.Module):
    """Convolution, BatchNorm, an activation and, with `pool`, max-pooling by 2.

    A sequence of inputs is convolved as if concatenated along channels, without storing the concatenation.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    use_bias: bool = True
    activation: ops.Activation = "relu"
    kernel_init: nn.initializers.Initializer = xavier_normal
    numerics: Numerics = FLOAT32
    pool: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "*t b h w c"] | Sequence[Float[Array, "*t b h w _"]], *, train: bool
    ) -> Float[Array, "*t b H W d"]:
        conv = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.use_bias,
            self.kernel_init,
            self.numerics,
            name="conv",
        )
        y, offset = conv.without_bias(x)
        return BatchNorm(self.numerics, self.activation, self.pool, name="norm")(y, train=train, offset=offset)


class Dropout(nn.Module):
    """Sets a fraction `rate` of the elements to 0 in training and scales the others by 1 / (1 - rate).

    The mask of an example depends on its position in the global batch, so results do not depend on the number of
    devices. Needs `rngs={"dropout": key}`, the same key on every device.
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
