"""Ways to compute a convolution and its gradients that are faster on some platforms than XLA's own."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mtan_jax.models.ops import pixel_pairs, reference

Images = Float[Array, "b h w c"]
Outputs = Float[Array, "b H W d"]
Kernel = Float[Array, "k l c d"]

CHUNK = 2048  # pixels whose shifted copies fit into a processor's cache


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to compute a convolution and its gradients.

    Attributes:
        forward: (x, kernel) -> output.
        input_gradient: (kernel, cotangent) -> cotangent of x.
        kernel_gradient: (x, cotangent) -> cotangent of the kernel.
    """

    forward: Callable[[Images, Kernel], Outputs]
    input_gradient: Callable[[Kernel, Outputs], Images]
    kernel_gradient: Callable[[Images, Outputs], Kernel]

    @functools.cached_property
    def gradients(self) -> Callable[[Images, Kernel, Outputs], tuple[Images, Kernel]]:
        """(x, kernel, cotangent) -> cotangents of x and of the kernel."""

        # A function that lives as long as the variant: JAX's cache of traced functions holds weak references, so a
        # method would be traced, lowered and compiled again for each convolution.
        def gradients(x: Images, kernel: Kernel, cotangent: Outputs) -> tuple[Images, Kernel]:
            return self.input_gradient(kernel, cotangent), self.kernel_gradient(x, cotangent)

        return gradients


def with_gradients(
    forward: Callable[[Images, Kernel], Outputs], like_x: jax.ShapeDtypeStruct, like_kernel: jax.ShapeDtypeStruct
) -> Variant:
    """Derives the gradients of a convolution, by transposition, for arrays of these shapes and types."""

    def input_gradient(kernel: Kernel, cotangent: Outputs) -> Images:
        (gradient,) = jax.linear_transpose(lambda x: forward(x, kernel), like_x)(cotangent)
        return gradient

    def kernel_gradient(x: Images, cotangent: Outputs) -> Kernel:
        (gradient,) = jax.linear_transpose(lambda kernel: forward(x, kernel), like_kernel)(cotangent)
        return gradient

    return Variant(forward, input_gradient, kernel_gradient)


def einsum_product(x: Images, kernel: Kernel) -> Outputs:
    """A 1x1 convolution as a product that leaves the layout of images to XLA; TPU layouts are not row-major."""
    return jnp.einsum("bhwc,cd->bhwd", x, kernel[0, 0])


def flat_product(x: Images, kernel: Kernel) -> Outputs:
    """A 1x1 convolution as one matrix product; on CPUs twice as fast as a convolution or as `einsum_product`."""
    flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return (flat @ kernel[0, 0]).reshape(*x.shape[:-1], kernel.shape[-1])


def paired(x: Images, kernel: Kernel) -> Outputs:
    """A convolution of odd size at stride 1, on pairs of pixels."""
    return pixel_pairs.split(reference.conv(pixel_pairs.join(x), pixel_pairs.pair_kernel(kernel)))


def by_taps(x: Images, kernel: Kernel, *, dilation: int) -> Outputs:
    """A dilated convolution of odd size at stride 1, as a sum of one product per tap with the pixels that it reads."""
    _, height, width, _ = x.shape
    dtype, exact = x.dtype, jnp.promote_types(x.dtype, jnp.float32)  # each partial sum in bfloat16 would be rounded
    x, kernel = x.astype(exact), kernel.astype(exact)
    total = jnp.zeros((*x.shape[:-1], kernel.shape[-1]), exact)
    for i, j in itertools.product(*map(range, kernel.shape[:2])):
        down, right = (dilation * (tap - size // 2) for tap, size in zip((i, j), kernel.shape[:2], strict=True))
        if abs(down) >= height or abs(right) >= width:
            continue
        seen = x[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
        sides = ((0, 0), *((max(-shift, 0), max(shift, 0)) for shift in (down, right)), (0, 0))
        total += jnp.pad(flat_product(seen, kernel[i : i + 1, j : j + 1]), sides)
    return total.astype(dtype)


def kernel_gradient_3x3(x: Images, cotangent: Outputs) -> Float[Array, "3 3 c d"]:
    """The kernel's gradient of a 3x3 convolution at stride 1, as matrix products.

    The images are processed in chunks of about `CHUNK` pixels, in a loop, so that all chunks use the same memory.
    """
    batch, height, width, channels = x.shape
    images = max(n for n in range(1, batch + 1) if batch % n == 0 and (n == 1 or n * height * width <= CHUNK))
    chunks_per_image = -(-height * width // CHUNK)
    rows = -(-height // chunks_per_image)
    missing = rows * -(-height // rows) - height  # rows of zeros, which add nothing
    x = jnp.pad(x, ((0, 0), (1, 1 + missing), (0, 0), (0, 0)))
    cotangent = jnp.pad(cotangent, ((0, 0), (0, missing), (0, 0), (0, 0)))
    tops = range(0, height, rows)

    def add(chunk: Array, total: Array) -> Array:
        first, top = chunk // len(tops) * images, chunk % len(tops) * rows
        seen = lax.dynamic_slice(x, (first, top, 0, 0), (images, rows + 2, width, channels))
        pulled = lax.dynamic_slice(cotangent, (first, top, 0, 0), (images, rows, width, cotangent.shape[-1]))
        return total + _kernel_gradient_of_rows(seen, pulled)

    total = jnp.zeros((3 * channels, 3 * cotangent.shape[-1]), jnp.promote_types(x.dtype, jnp.float32))
    total = lax.fori_loop(0, batch // images * len(tops), add, total)
    return total.reshape(3, channels, 3, -1).transpose(0, 2, 1, 3).astype(x.dtype)


def _kernel_gradient_of_rows(
    x: Float[Array, "b h+2 w c"], cotangent: Float[Array, "b h w d"]
) -> Float[Array, "3*c 3*d"]:
    """The kernel's gradient from some rows, indexed by (tap's row, c) and (tap's column, d).

    Each tap's gradient is a product, over pixels, of shifted x and the cotangent. The tap's row shifts x and its column
    shifts the cotangent, so three copies of each, side by side, give all nine taps in one product.
    """
    rows, width = cotangent.shape[1:3]
    cotangent = jnp.pad(cotangent, ((0, 0), (0, 0), (1, 1), (0, 0)))
    left = jnp.stack([x[:, i : i + rows] for i in range(3)], axis=3)
    right = jnp.stack([cotangent[:, :, 2 - j : 2 - j + width] for j in range(3)], axis=3)
    left, right = (side.reshape(-1, 3 * side.shape[-1]) for side in (left, right))
    return jnp.matmul(left.T, right, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))


def share_seen(size: tuple[int, ...], kernel: tuple[int, ...], dilation: int) -> float:
    """The share of a convolution's multiplications that read pixels of the image rather than padding."""
    shares = []
    for pixels, taps in zip(size, kernel, strict=True):
        seen = [max(pixels - dilation * abs(tap - taps // 2), 0) for tap in range(taps)]
        shares.append(sum(seen) / (taps * pixels))
    return math.prod(shares)
