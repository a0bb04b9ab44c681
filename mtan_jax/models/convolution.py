"""Convolution, on TPUs of pairs of pixels; on CPUs its parts in the ways that are fastest there (docs/performance.md).

On CPUs 1x1 convolutions and gradients of 3x3 kernels are products, 3x3 convolutions with many channels are Winograd's,
and convolutions with holes (dilation) a product a tap of the kernel, since Eigen multiplies the padding too: most of
what the widest taps of an atrous pyramid see.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mtan_jax.models import pixel_pairs, winograd

# On CPUs the gradient of the kernel is a convolution with a "kernel" as large as the image, which XLA leaves to Eigen.
# Products are several times as fast (docs/performance.md), unless there are so few channels that the shifted copies
# that they need cost more.
LEAST_CHANNELS = 16, 32  # on the side with fewer, on the side with more
PIECE = 2048  # pixels, whose copies stay in a processor's cache
MOST_SEEN = 0.8  # share of the taps' work that is not padding, up to which convolutions with holes go by taps

Images = Float[Array, "b h w c"]
Kernel = Float[Array, "k l c d"]
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(x: Images, kernel: Kernel, *, stride: int = 1, dilation: int = 1) -> Float[Array, "b H W d"]:
    """Convolution, padded by `dilation * (k // 2)` zeros on every side."""
    paired = stride == dilation == 1 and pixel_pairs.suits(*x.shape[-2:], among=pixel_pairs.CONVOLVED)
    if kernel.shape[:2] != (1, 1) or stride != 1:
        return _convolve(x, kernel, stride, dilation, paired)
    return pixel_pairs.on_tpus(_in_pairs if paired else _product, _flat_product, x, kernel)


def _product(x: Images, kernel: Kernel) -> Float[Array, "b h w d"]:
    return jnp.einsum("bhwc,cd->bhwd", x, kernel[0, 0])  # for TPUs, whose layouts of images are not by rows


def _flat_product(x: Images, kernel: Kernel) -> Float[Array, "b h w d"]:
    # On CPUs twice as fast as a convolution, and its gradient twice as fast as that of the product above.
    return (_flat(x) @ kernel[0, 0]).reshape(*x.shape[:-1], kernel.shape[-1])


def _flat(x: Images) -> Float[Array, "n c"]:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _in_pairs(x: Images, kernel: Kernel) -> Float[Array, "b h w d"]:
    return pixel_pairs.split(_plain(pixel_pairs.join(x), pixel_pairs.kernel_of_pairs(kernel), 1, 1))


def _plain(x: Images, kernel: Kernel, stride: int, dilation: int) -> Float[Array, "b H W d"]:
    sides = tuple((dilation * (size // 2),) * 2 for size in kernel.shape[:2])
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), sides, rhs_dilation=(dilation,) * 2, dimension_numbers=_LAYOUT
    )


def _by_taps(x: Images, kernel: Kernel, dilation: int) -> Float[Array, "b h w d"]:
    """The convolution at stride 1 as a sum over the taps that see any pixel of the image, of what they see."""
    _, height, width, _ = x.shape
    dtype, exact = x.dtype, jnp.promote_types(x.dtype, jnp.float32)  # sums of bfloat16 would be rounded each
    x, kernel = x.astype(exact), kernel.astype(exact)
    total = jnp.zeros((*x.shape[:-1], kernel.shape[-1]), exact)
    for i, j in itertools.product(*map(range, kernel.shape[:2])):
        down, right = (dilation * (tap - size // 2) for tap, size in zip((i, j), kernel.shape[:2], strict=True))
        if abs(down) >= height or abs(right) >= width:
            continue
        seen = x[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
        sides = ((0, 0), *((max(-shift, 0), max(shift, 0)) for shift in (down, right)), (0, 0))
        total += jnp.pad(_flat_product(seen, kernel[i : i + 1, j : j + 1]), sides)
    return total.astype(dtype)


def _share_seen(size: tuple[int, ...], kernel: tuple[int, ...], dilation: int) -> float:
    """Of all pixels that the taps multiply, those that are of the image."""
    shares = []
    for pixels, taps in zip(size, kernel, strict=True):
        seen = [max(pixels - dilation * abs(tap - taps // 2), 0) for tap in range(taps)]
        shares.append(sum(seen) / (taps * pixels))
    return math.prod(shares)


class _Way(NamedTuple):
    """How CPUs compute a convolution, and the gradients of its images and its kernel."""

    forward: Callable[[Images, Kernel], Array]
    gradients: Callable[[Images, Kernel, Array], tuple[Array, Array]]


def _way_of_cpus(x: Images, kernel: Kernel, stride: int, dilation: int) -> _Way | None:
    """None: that of other devices."""
    if stride == dilation == 1 and winograd.suits(x.shape, kernel.shape):
        return _Way(winograd.convolve, winograd.gradients)
    if dilation > 1 and stride == 1 and all(size % 2 for size in kernel.shape[:2]):
        return _Way(_with_holes(x, kernel, dilation), functools.partial(_gradients_with_holes, dilation))
    return None


def _with_holes(x: Images, kernel: Kernel, dilation: int) -> Callable[[Images, Kernel], Array]:
    """How CPUs compute the convolution."""
    if _share_seen(x.shape[1:3], kernel.shape[:2], dilation) <= MOST_SEEN:
        return functools.partial(_by_taps, dilation=dilation)
    return functools.partial(_plain, stride=1, dilation=dilation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve(x: Images, kernel: Kernel, stride: int, dilation: int, paired: bool) -> Float[Array, "b H W d"]:
    plain = functools.partial(_plain, stride=stride, dilation=dilation)
    if paired:
        return pixel_pairs.on_tpus(_in_pairs, plain, x, kernel)
    if way := _way_of_cpus(x, kernel, stride, dilation):
        return lax.platform_dependent(x, kernel, cpu=way.forward, default=plain)
    return plain(x, kernel)


def _forward(x: Images, kernel: Kernel, *settings: Any) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, *settings), (x, kernel)


def _backward(
    stride: int, dilation: int, paired: bool, kept: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    plain = functools.partial(_gradients, stride, dilation)
    if paired:
        return pixel_pairs.on_tpus(_gradients_in_pairs, plain, *kept, cotangent)
    if way := _way_of_cpus(*kept, stride, dilation):
        return lax.platform_dependent(*kept, cotangent, cpu=way.gradients, default=plain)
    return plain(*kept, cotangent)


_convolve.defvjp(_forward, _backward)


def _gradients_in_pairs(x: Images, kernel: Kernel, cotangent: Array) -> tuple[Array, Array]:
    return jax.vjp(_in_pairs, x, kernel)[1](cotangent)


def _gradients_with_holes(dilation: int, x: Images, kernel: Kernel, cotangent: Array) -> tuple[Array, Array]:
    """That of the kernel is faster by taps wherever they see."""
    convolution = _with_holes(x, kernel, dilation)
    (for_x,) = jax.linear_transpose(lambda x: convolution(x, kernel), x)(cotangent)
    (for_kernel,) = jax.linear_transpose(lambda kernel: _by_taps(x, kernel, dilation), kernel)(cotangent)
    return for_x, for_kernel


def _gradients(stride: int, dilation: int, x: Images, kernel: Kernel, cotangent: Array) -> tuple[Array, Array]:
    (for_x,) = jax.linear_transpose(lambda x: _plain(x, kernel, stride, dilation), x)(cotangent)

    def whole(x: Images, cotangent: Images) -> Kernel:
        return jax.linear_transpose(lambda kernel: _plain(x, kernel, stride, dilation), kernel)(cotangent)[0]

    if not _suits_products(kernel.shape, stride, dilation):
        return for_x, whole(x, cotangent)
    return for_x, lax.platform_dependent(x, cotangent, cpu=_gradient_by_products, default=whole)


def _suits_products(kernel: tuple[int, ...], stride: int, dilation: int) -> bool:
    enough = all(number >= least for number, least in zip(sorted(kernel[2:]), LEAST_CHANNELS, strict=True))
    return kernel[:2] == (3, 3) and stride == dilation == 1 and enough


def _gradient_by_products(x: Images, cotangent: Images) -> Kernel:
    """The gradient of a 3x3 kernel.

    Piece after piece of the images, in a loop, so that all pieces use the same memory.
    """
    batch, height, width, channels = x.shape
    images = max(n for n in range(1, batch + 1) if batch % n == 0 and (n == 1 or n * height * width <= PIECE))
    per_image = -(-height * width // PIECE)
    rows = -(-height // per_image)
    missing = rows * -(-height // rows) - height  # rows of zeros, which add nothing
    x = jnp.pad(x, ((0, 0), (1, 1 + missing), (0, 0), (0, 0)))
    cotangent = jnp.pad(cotangent, ((0, 0), (0, missing), (0, 0), (0, 0)))
    tops = range(0, height, rows)

    def add(piece: Array, total: Array) -> Array:
        first, top = piece // len(tops) * images, piece % len(tops) * rows
        seen = lax.dynamic_slice(x, (first, top, 0, 0), (images, rows + 2, width, channels))
        pulled = lax.dynamic_slice(cotangent, (first, top, 0, 0), (images, rows, width, cotangent.shape[-1]))
        return total + _of_rows(seen, pulled)

    total = jnp.zeros((3 * channels, 3 * cotangent.shape[-1]), jnp.promote_types(x.dtype, jnp.float32))
    total = lax.fori_loop(0, batch // images * len(tops), add, total)
    return total.reshape(3, channels, 3, -1).transpose(0, 2, 1, 3).astype(x.dtype)


def _of_rows(x: Float[Array, "b h+2 w c"], cotangent: Float[Array, "b h w d"]) -> Float[Array, "3*c 3*d"]:
    """The same of some rows, of which x has one more on either side: by the tap's row and c, its column and d.

    Each tap's gradient is a product, over pixels, of x shifted and the cotangent. The tap's row shifts x and its column
    the cotangent, so that of either three copies, side by side, give all nine in one product.
    """
    rows, width = cotangent.shape[1:3]
    cotangent = jnp.pad(cotangent, ((0, 0), (0, 0), (1, 1), (0, 0)))
    left = jnp.stack([x[:, i : i + rows] for i in range(3)], axis=3)
    right = jnp.stack([cotangent[:, :, 2 - j : 2 - j + width] for j in range(3)], axis=3)
    left, right = (side.reshape(-1, 3 * side.shape[-1]) for side in (left, right))
    return jnp.matmul(left.T, right, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))
