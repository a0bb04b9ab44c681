"""Plain `lax` and `jnp` definitions of the ops. Tests compare every variant with them."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int8


def conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k l c d"], *, stride: int = 1, dilation: int = 1
) -> Float[Array, "b H W d"]:
    """Convolution, padded by `dilation * (k // 2)` zeros on every side."""
    padding = tuple((dilation * (size // 2),) * 2 for size in kernel.shape[:2])
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def max_pool(x: Float[Array, "*n h w c"]) -> tuple[Float[Array, "*n h/2 w/2 c"], Int8[Array, "*n h/2 w/2 c"]]:
    """Maximum of each 2x2 window and the position (0..3, row by row) of the first maximum."""
    *batch, height, width, channels = x.shape
    windows = x.reshape(*batch, height // 2, 2, width // 2, 2, channels)
    windows = jnp.moveaxis(windows, -4, -3).reshape(*batch, height // 2, width // 2, 4, channels)
    position = windows.argmax(-2, keepdims=True)
    return jnp.take_along_axis(windows, position, -2)[..., 0, :], position[..., 0, :].astype(jnp.int8)


def max_unpool(x: Float[Array, "*n h w c"], position: Int8[Array, "*n h w c"]) -> Float[Array, "*n 2*h 2*w c"]:
    """Puts each value at its position in a 2x2 window of zeros."""
    rows = [jnp.stack([jnp.where(position == 2 * i + j, x, 0) for j in range(2)], -2) for i in range(2)]
    windows = jnp.stack(rows, -4)  # [*n, h, 2, w, 2, c]
    *batch, height, _, width, _, channels = windows.shape
    return windows.reshape(*batch, 2 * height, 2 * width, channels)


def upsample(x: Float[Array, "*n h w c"]) -> Float[Array, "*n 2*h 2*w c"]:
    """Doubles height and width bilinearly with align_corners=True."""
    height, width = x.shape[-3:-1]
    down, across = (jnp.asarray(bilinear_matrix(size, 2 * size), x.dtype) for size in (height, width))
    return jnp.einsum("...hwc,Hh,Ww->...HWc", x, down, across, precision=lax.Precision.HIGHEST)


def bilinear_matrix(old: int, new: int) -> np.ndarray:
    """Weights [new, old] of bilinear resizing with align_corners=True; each row has at most two that are not 0."""
    place = np.linspace(0, old - 1, new)[:, None]
    return np.clip(1 - np.abs(place - np.arange(old)), 0, None)


def batch_moments(x: Float[Array, "*t b h w c"]) -> tuple[Float[Array, "*t c"], Float[Array, "*t c"]]:
    """Mean and biased variance over examples and pixels."""
    return x.mean((-4, -3, -2)), x.var((-4, -3, -2))


def normalize(
    x: Float[Array, "*t b h w c"],
    mean: Float[Array, "*t c"],
    variance: Float[Array, "*t c"],
    scale: Float[Array, "*t c"],
    bias: Float[Array, "*t c"],
    epsilon: float = 1e-5,
) -> Float[Array, "*t b h w c"]:
    """BatchNorm with given moments."""
    mean, variance, scale, bias = (jnp.expand_dims(v, (-4, -3, -2)) for v in (mean, variance, scale, bias))
    return (x - mean) * lax.rsqrt(variance + epsilon) * scale + bias
