"""Losses, as sum and count over labelled pixels (dense prediction) or images (classification).

Sum and count are separate because the loss of a global batch is psum(sum) / psum(count); a mean of the devices' means
would weight pixels unequally. Rows without a label are ignored whatever they contain: `jnp.where` selects the terms
before any arithmetic that could produce a NaN gradient from NaN * 0.

The definitions are those of Liu, Johns, Davison (CVPR 2019), section 4, and of the authors' code, with one difference:
the authors treat a normal as undefined if its components sum to 0, this module if all components are 0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from mtan_jax.types import SumAndCount


def defined_pixels(target: Shaped[Array, "b ..."], labelled: Bool[Array, "b"]) -> Bool[Array, "b ..."]:
    """Mask of the labelled pixels: not void (-1) in class maps, not 0 in all channels of other targets.

    One class per image [b] is treated as a class map of one pixel. Also accepts NumPy arrays, and then returns one.
    """
    is_class_map = jnp.issubdtype(target.dtype, jnp.integer)
    defined = target >= 0 if is_class_map else (target != 0).any(axis=-1)
    return defined & labelled.reshape(-1, *(1,) * (defined.ndim - 1))


def at_least_float32(array: Float[Array, "..."]) -> Float[Array, "..."]:
    """Promotes bfloat16 and float16 to float32; float64 is unchanged."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def cross_entropy(
    prediction: Float[Array, "b *hw c"], target: Int[Array, "b *hw"], labelled: Bool[Array, "b"]
) -> SumAndCount:
    """Cross-entropy of class maps, or of one class per image.

    Args:
        prediction: log-probabilities.
        target: class indices, -1 where void.
        labelled: False for rows without a label.

    Returns:
        Sum of -log p(target) over labelled pixels and their count, float32 (float64 for a float64 prediction).
    """
    valid = defined_pixels(target, labelled)
    # Compares with every class, because the gradient of a gather is a scatter, which is slow on TPUs.
    classes = jnp.arange(prediction.shape[-1], dtype=jnp.int32).reshape((1,) * target.ndim + (-1,))
    is_target = target.astype(jnp.int32)[..., None] == classes
    chosen = jnp.where(is_target & valid[..., None], at_least_float32(prediction), 0)
    return -chosen.sum(), _count(valid, chosen)


def l1(prediction: Float[Array, "b h w c"], target: Float[Array, "b h w c"], labelled: Bool[Array, "b"]) -> SumAndCount:
    """Absolute difference, for depth and inverse depth.

    Args:
        prediction: in the unit of the target.
        target: 0 in all channels where undefined.
        labelled: False for rows without a label.

    Returns:
        Sum of |prediction - target| over labelled pixels and channels, and the count of labelled pixels, float32
        (float64 for a float64 prediction).
    """
    valid = defined_pixels(target, labelled)
    difference = jnp.where(valid[..., None], at_least_float32(prediction) - at_least_float32(target), 0)
    return jnp.abs(difference).sum(), _count(valid, difference)


def cosine(
    prediction: Float[Array, "b h w c"], target: Float[Array, "b h w c"], labelled: Bool[Array, "b"]
) -> SumAndCount:
    """One minus the dot product, for surface normals.

    Args:
        prediction: unit vectors.
        target: unit vectors, 0 in all channels where undefined.
        labelled: False for rows without a label.

    Returns:
        Sum of 1 - <prediction, target> over labelled pixels and their count, float32 (float64 for a float64
        prediction).
    """
    valid = defined_pixels(target, labelled)
    # Select before the product as well, because the gradient of a product with a NaN target is NaN.
    prediction = jnp.where(valid[..., None], at_least_float32(prediction), 0)
    dot = (prediction * at_least_float32(target)).sum(axis=-1)
    return jnp.where(valid, 1 - dot, 0).sum(), _count(valid, dot)


def _count(valid: Bool[Array, "b ..."], summed: Float[Array, "..."]) -> Float[Array, ""]:
    return valid.sum(dtype=jnp.int32).astype(summed.dtype)
