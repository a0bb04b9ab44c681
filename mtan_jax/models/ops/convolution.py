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

from mtan_jax.models.ops import pixel_pairs, winograd

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


class _Ways(NamedTuple):
    """How a convolution and what its cotangent is to its images and to its kernel are computed."""

    forward: Callable[[Images, Kernel], Array]
    of_images: Callable[[Kernel, Array], Images]
    of_kernel: Callable[[Images, Array], Kernel]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve(x: Images, kernel: Kernel, stride: int, dilation: int, paired: bool) -> Float[Array, "b H W d"]:
    plain, theirs = _ways(x, kernel, stride, dilation)
    if paired:
        return pixel_pairs.on_tpus(_in_pairs, plain.forward, x, kernel)
    return _on_cpus(theirs.forward, plain.forward, x, kernel)


def _forward(x: Images, kernel: Kernel, *settings: Any) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, *settings), (x, kernel)


def _backward(
    stride: int, dilation: int, paired: bool, kept: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    plain, theirs = _ways(*kept, stride, dilation)

    def apart(x: Images, kernel: Kernel, cotangent: Array) -> tuple[Array, Array]:
        for_x = _on_cpus(theirs.of_images, plain.of_images, kernel, cotangent)
        return for_x, _on_cpus(theirs.of_kernel, plain.of_kernel, x, cotangent)

    if paired:
        return pixel_pairs.on_tpus(_gradients_in_pairs, apart, *kept, cotangent)
    return apart(*kept, cotangent)


_convolve.defvjp(_forward, _backward)


def _gradients_in_pairs(x: Images, kernel: Kernel, cotangent: Array) -> tuple[Array, Array]:
    return jax.vjp(_in_pairs, x, kernel)[1](cotangent)


def _on_cpus(there: Callable[..., Array], elsewhere: Callable[..., Array], *arrays: Array) -> Array:
    if there is elsewhere:
        return elsewhere(*arrays)
    return lax.platform_dependent(*arrays, cpu=there, default=elsewhere)


def _ways(x: Images, kernel: Kernel, stride: int, dilation: int) -> tuple[_Ways, _Ways]:
    """Of all devices, and of CPUs."""
    plain = _derived(functools.partial(_plain, stride=stride, dilation=dilation), x, kernel)
    if stride != 1:
        return plain, plain
    if dilation == 1:
        return plain, _without_holes(plain, x.shape, kernel.shape)
    if any(size % 2 == 0 for size in kernel.shape[:2]):
        return plain, plain
    by_taps = _derived(functools.partial(_by_taps, dilation=dilation), x, kernel)
    if _share_seen(x.shape[1:3], kernel.shape[:2], dilation) <= MOST_SEEN:
        return plain, by_taps
    return plain, plain._replace(of_kernel=by_taps.of_kernel)  # which is faster wherever taps see


def _derived(convolution: Callable[[Images, Kernel], Array], x: Images, kernel: Kernel) -> _Ways:
    like_x, like_kernel = (jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (x, kernel))

    def of_images(kernel: Kernel, cotangent: Array) -> Images:
        return jax.linear_transpose(lambda x: convolution(x, kernel), like_x)(cotangent)[0]

    def of_kernel(x: Images, cotangent: Array) -> Kernel:
        return jax.linear_transpose(lambda kernel: convolution(x, kernel), like_kernel)(cotangent)[0]

    return _Ways(convolution, of_images, of_kernel)


def _without_holes(plain: _Ways, images: tuple[int, ...], kernel: tuple[int, ...]) -> _Ways:
    """How CPUs compute convolutions at stride 1 and without holes."""
    ways = plain
    if kernel[:2] == (3, 3) and _at_least(LEAST_CHANNELS, kernel):
        ways = ways._replace(of_kernel=_gradient_by_products)
    if winograd.suits(images, kernel):
        ways = ways._replace(forward=winograd.convolve, of_images=winograd.gradient_of_images)
    if winograd.suits(images, kernel, winograd.LEAST_WORK_OF_KERNEL):
        ways = ways._replace(of_kernel=winograd.gradient_of_kernel)
    return ways


def _at_least(channels: tuple[int, int], kernel: tuple[int, ...]) -> bool:
    return all(number >= least for number, least in zip(sorted(kernel[2:]), channels, strict=True))


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
