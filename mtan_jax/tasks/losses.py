"""Losses, as a sum over what is defined and its number: over pixels in dense tasks, over images in classification.

Sum and number stay apart because the loss of a batch spread over devices is psum(sum) / psum(count): a mean of the
devices' means would weigh pixels unequally. Rows without a label add nothing, whatever they hold: every term is
selected by `jnp.where` before any arithmetic that could turn NaN * 0 into a NaN gradient.

The definitions are those of Liu, Johns, Davison (CVPR 2019), section 4, and of the authors' code. One difference: the
authors call a normal undefined where its components add up to 0, here it is where all of them are 0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

SumAndCount = tuple[Float[Array, ""], Float[Array, ""]]


def defined_pixels(target: Shaped[Array, "b ..."], labelled: Bool[Array, "b"]) -> Bool[Array, "b ..."]:
    """Pixels that count: not void in a class map (-1), not 0 over all channels elsewhere, in a labelled row.

    A class an image [b] counts as a class map of one pixel.

    Works on NumPy arrays too, and then returns one.
    """
    is_class_map = jnp.issubdtype(target.dtype, jnp.integer)
    defined = target >= 0 if is_class_map else (target != 0).any(axis=-1)
    return defined & labelled.reshape(-1, *(1,) * (defined.ndim - 1))


def at_least_float32(array: Float[Array, "..."]) -> Float[Array, "..."]:
    """Raises bfloat16 and float16 to float32; float64 stays."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def cross_entropy(
    prediction: Float[Array, "b *hw c"], target: Int[Array, "b *hw"], labelled: Bool[Array, "b"]
) -> SumAndCount:
    """Cross-entropy of class maps, or of a class an image.

    Args:
        prediction: log-probabilities.
        target: positions of the classes, -1 where void.
        labelled: False for rows without a label.

    Returns:
        The sum of -log p(target) over defined pixels and their number, float32 (float64 for a float64 prediction).
    """
    valid = defined_pixels(target, labelled)
    # A comparison with every class instead of a gather, whose gradient is a scatter: slow on TPUs.
    classes = jnp.arange(prediction.shape[-1], dtype=jnp.int32).reshape((1,) * target.ndim + (-1,))
    is_target = target.astype(jnp.int32)[..., None] == classes
    chosen = jnp.where(is_target & valid[..., None], at_least_float32(prediction), 0)
    return -chosen.sum(), _count(valid, chosen)


def l1(prediction: Float[Array, "b h w c"], target: Float[Array, "b h w c"], labelled: Bool[Array, "b"]) -> SumAndCount:
    """Absolute difference, for depth and inverse depth.

    Args:
        prediction: in the unit of the target.
        target: 0 over all channels where undefined.
        labelled: False for rows without a label.

    Returns:
        The sum of |prediction - target| over defined pixels and channels and the number of defined pixels, float32
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
        target: unit vectors, 0 over all channels where undefined.
        labelled: False for rows without a label.

    Returns:
        The sum of 1 - <prediction, target> over defined pixels and their number, float32 (float64 for a float64
        prediction).
    """
    valid = defined_pixels(target, labelled)
    # Selected before the product too: the gradient of a product with a NaN target is NaN.
    prediction = jnp.where(valid[..., None], at_least_float32(prediction), 0)
    dot = (prediction * at_least_float32(target)).sum(axis=-1)
    return jnp.where(valid, 1 - dot, 0).sum(), _count(valid, dot)


def _count(valid: Bool[Array, "b ..."], summed: Float[Array, "..."]) -> Float[Array, ""]:
    return valid.sum(dtype=jnp.int32).astype(summed.dtype)
