"""Convolution, computed in the fastest known way on each platform (docs/performance.md has the measurements)."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
from jax import lax

from mtan_jax.models.ops import convolution_variants, pixel_pairs, platforms, reference
from mtan_jax.models.ops.convolution_variants import Images, Kernel, Outputs, Variant
from mtan_jax.types import Shape

# Lower bounds of the smaller and the larger number of channels (input and output) for which the kernel's gradient is
# computed as products. With fewer channels, the shifted copies cost more than XLA's convolution with a kernel as large
# as the image.
MIN_CHANNELS = 16, 32
MAX_SHARE_SEEN = 0.8  # `by_taps` is faster if at most this share of the multiplications read pixels, not padding


def conv(x: Images, kernel: Kernel, *, stride: int = 1, dilation: int = 1) -> Outputs:
    """Convolves images with a kernel.

    Args:
        x: images, [b, h, w, c].
        kernel: [k, l, c, d].
        stride: in both directions.
        dilation: in both directions.

    Returns:
        [b, H, W, d]; the input is padded by `dilation * (k // 2)` zeros on every side.
    """
    return _conv(x, kernel, stride, dilation)


def conv_concatenated(parts: Sequence[Images], kernel: Kernel, *, stride: int = 1, dilation: int = 1) -> Outputs:
    """Convolves the concatenation of images along channels, as a sum of convolutions; no concatenation is stored.

    Tasks that each concatenate features of their own to shared features read the shared ones in place.
    """
    if len(parts) == 1:
        return conv(parts[0], kernel, stride=stride, dilation=dilation)
    ends = list(itertools.accumulate(part.shape[-1] for part in parts))
    outputs = [
        # Indexing with an ellipsis would become a dynamic slice.
        conv(part, lax.slice_in_dim(kernel, end - part.shape[-1], end, axis=2), stride=stride, dilation=dilation)
        for part, end in zip(parts, ends, strict=True)
    ]
    return sum(outputs[1:], outputs[0])


@functools.lru_cache(maxsize=1024)  # JAX traces a function once per shape, if it is the same object
def _variants(x: Shape, kernel: Shape, stride: int, dilation: int) -> dict[str, Variant]:
    """Chooses how each platform computes a convolution of these shapes. No other code makes this choice."""
    is_plain = stride == dilation == 1
    is_paired = is_plain and pixel_pairs.applies(*x.shape[-2:], among=pixel_pairs.CONV_CHANNELS)
    paired = convolution_variants.with_gradients(convolution_variants.paired, x, kernel)
    if kernel.shape[:2] == (1, 1) and stride == 1:
        flat, einsum = (
            convolution_variants.with_gradients(forward, x, kernel)
            for forward in (convolution_variants.flat_product, convolution_variants.einsum_product)
        )
        return {"default": flat, "cpu": flat, "tpu": paired if is_paired else einsum}
    default = convolution_variants.with_gradients(
        functools.partial(reference.conv, stride=stride, dilation=dilation), x, kernel
    )
    cpu = default
    if is_plain and kernel.shape[:2] == (3, 3) and _has_many_channels(kernel):
        cpu = dataclasses.replace(default, kernel_gradient=convolution_variants.kernel_gradient_3x3)
    elif dilation > 1 and stride == 1 and all(size % 2 for size in kernel.shape[:2]):
        # Eigen multiplies the padding too, which is most of what the outermost taps read.
        by_taps = convolution_variants.with_gradients(
            functools.partial(convolution_variants.by_taps, dilation=dilation), x, kernel
        )
        is_mostly_padding = convolution_variants.share_seen(x.shape[1:3], kernel.shape[:2], dilation) <= MAX_SHARE_SEEN
        cpu = by_taps if is_mostly_padding else dataclasses.replace(default, kernel_gradient=by_taps.kernel_gradient)
    return {"default": default, "cpu": cpu, "tpu": paired if is_paired else default}


def _has_many_channels(kernel: Shape) -> bool:
    return all(number >= least for number, least in zip(sorted(kernel.shape[2:]), MIN_CHANNELS, strict=True))


def _shape(array: Images | Kernel) -> Shape:
    return Shape(array.shape, array.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: Images, kernel: Kernel, stride: int, dilation: int) -> Outputs:
    variants = _variants(_shape(x), _shape(kernel), stride, dilation)
    return platforms.select(x, kernel, **{platform: variant.forward for platform, variant in variants.items()})


def _forward(x: Images, kernel: Kernel, stride: int, dilation: int) -> tuple[Outputs, tuple[Images, Kernel]]:
    return _conv(x, kernel, stride, dilation), (x, kernel)


def _backward(stride: int, dilation: int, kept: tuple[Images, Kernel], cotangent: Outputs) -> tuple[Images, Kernel]:
    variants = _variants(*map(_shape, kept), stride, dilation)
    return platforms.select(*kept, cotangent, **{platform: variant.gradients for platform, variant in variants.items()})


_conv.defvjp(_forward, _backward)
