"""3x3 convolutions by Winograd's F(2x2, 3x3): four pixels of a channel with 16 multiplications in place of 36.

As in Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks* (CVPR 2016). Tiles of 4x4 pixels, two pixels
apart, and kernels are transformed; each of the 16 places in a tile is then one product of a matrix by tiles and
channels with one by channels of either side; and what comes out is transformed to 2x2 pixels. The gradients use the
same transforms. Images go in pieces, in a loop, so that all pieces use the same memory.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

PIECE = 8192  # pixels, whose transforms a processor's cache holds
LEAST_CHANNELS = 64, 128  # on either side, where a piece holds an image and where not: see docs/performance.md
# Multiplications of a tap. With fewer, what is saved is not worth the larger program, or nothing is.
LEAST_WORK, LEAST_WORK_OF_KERNEL = 2**26, 2**27

Images = Float[Array, "b h w c"]
Outputs = Float[Array, "b h w d"]
Kernel = Float[Array, "3 3 c d"]
Grid = Sequence[Sequence[Array]]  # rows of arrays, one for each place in a tile

# Theirs for pixels, kernels and products (B and A transposed).
_BT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_AT = ((1, 1, 1, 0), (0, 1, -1, -1))


def suits(images: tuple[int, ...], kernel: tuple[int, ...], least_work: int = LEAST_WORK) -> bool:
    """Whether this is the faster way on CPUs, for images [b, h, w, c] and a kernel [k, l, c, d] at stride 1."""
    _, height, width, _ = images
    least = LEAST_CHANNELS[height * width > PIECE]
    work = math.prod(images) * kernel[3]
    return kernel[:2] == (3, 3) and min(kernel[2:]) >= least and work >= least_work


@jax.jit  # traced and lowered once a shape
def convolve(x: Images, kernel: Kernel) -> Outputs:
    """The convolution at stride 1, padded by a zero on every side."""
    return _convolve(x, [[kernel[i, j] for j in range(3)] for i in range(3)], jnp.matmul)


@jax.jit
def gradient_of_images(kernel: Kernel, cotangent: Outputs) -> Images:
    """What the cotangent of `convolve` is to its images: a convolution with the kernel turned round."""
    turned = [[kernel[2 - i, 2 - j] for j in range(3)] for i in range(3)]
    return _convolve(cotangent, turned, lambda cotangent, kernel: cotangent @ kernel.T)  # transposed within the product


@jax.jit
def gradient_of_kernel(x: Images, cotangent: Outputs) -> Kernel:
    """What the cotangent of `convolve` is to its kernel."""

    def of_piece(x: Images, cotangent: Outputs) -> Kernel:
        pixels, pulled = _transformed(_BT, _tiles(x)), _transformed(_transposed(_AT), _blocks(cotangent))
        products = _each_place(lambda pixels, pulled: pixels.T @ pulled, pixels, pulled)
        return jnp.stack([jnp.stack(row) for row in _transformed(_transposed(_G), products)])

    pieces = [_pieces(images.astype(_exact(images))) for images in (x, cotangent)]
    total = jnp.zeros((3, 3, x.shape[-1], cotangent.shape[-1]), pieces[0].dtype)
    total = lax.fori_loop(0, len(pieces[0]), lambda i, total: total + of_piece(*(p[i] for p in pieces)), total)
    return total.astype(x.dtype)


def _convolve(x: Images, taps: Grid, product: Callable[[Array, Array], Array]) -> Outputs:
    exact = _exact(x)
    kernels = _transformed(_G, [[tap.astype(exact) for tap in row] for row in taps])

    def of_piece(x: Images) -> Outputs:
        pixels = _transformed(_BT, _tiles(x))
        outputs = _transformed(_AT, _each_place(product, pixels, kernels))
        return _joined(outputs, x.shape[:3])

    y = lax.map(of_piece, _pieces(x.astype(exact)))
    return y.reshape(*x.shape[:-1], y.shape[-1]).astype(x.dtype)


def _exact(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)  # transforms of bfloat16 would be rounded each


def _pieces(x: Images) -> Float[Array, "p n h w c"]:
    batch, height, width, _ = x.shape
    images = max(n for n in range(1, batch + 1) if batch % n == 0 and (n == 1 or n * height * width <= PIECE))
    return x.reshape(batch // images, images, *x.shape[1:])


def _tiles(x: Images) -> Grid:
    """By place in a tile of 4x4 pixels: its pixel of each tile, as an array by tiles and channels."""
    height, width = (size + size % 2 for size in x.shape[1:3])
    sides = ((1, 1 + size % 2) for size in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), *sides, (0, 0)))
    return [[_flat(x[:, i : i + height - 1 : 2, j : j + width - 1 : 2]) for j in range(4)] for i in range(4)]


def _blocks(x: Images) -> Grid:
    """By place in a block of 2x2 pixels, which is what a tile gives."""
    x = jnp.pad(x, ((0, 0), *((0, size % 2) for size in x.shape[1:3]), (0, 0)))
    return [[_flat(x[:, i::2, j::2]) for j in range(2)] for i in range(2)]


def _joined(blocks: Grid, size: tuple[int, ...]) -> Images:
    """The images [b, h, w] that have these blocks."""
    batch, height, width = size
    rows, columns = -(-height // 2), -(-width // 2)
    blocks = [[place.reshape(batch, rows, columns, -1) for place in row] for row in blocks]
    joined = jnp.stack([jnp.stack(row, axis=3) for row in blocks], axis=2)
    return joined.reshape(batch, 2 * rows, 2 * columns, -1)[:, :height, :width]


def _flat(x: Images) -> Float[Array, "n c"]:
    return x.reshape(-1, x.shape[-1])


def _transformed(matrix: Sequence[Sequence[float]], grid: Grid) -> Grid:
    """`matrix @ grid @ matrix.T`, of a grid whose entries are arrays."""
    rows = [[_combined(factors, column) for column in zip(*grid, strict=True)] for factors in matrix]
    return [[_combined(factors, row) for factors in matrix] for row in rows]


def _combined(factors: Sequence[float], arrays: Sequence[Array]) -> Array:
    terms = (array if factor == 1 else factor * array for factor, array in zip(factors, arrays, strict=True) if factor)
    return functools.reduce(operator.add, terms)


def _transposed(matrix: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    return tuple(zip(*matrix, strict=True))


def _each_place(product: Callable[[Array, Array], Array], left: Grid, right: Grid) -> Grid:
    return [[product(*pair) for pair in zip(*rows, strict=True)] for rows in zip(left, right, strict=True)]
