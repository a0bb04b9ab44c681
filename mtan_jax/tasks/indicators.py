"""Performance indicators: the fraction of correct labelled pixels in a batch, from 0 to 1, as sum and count.

A pixel is correct if its class is correct, its depth is within a factor of 1.25 (Eigen, Puhrsch, Fergus, NIPS 2014; the
same for inverse depth), or its normal is within 11.25 degrees. NaN is never correct.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtan_jax.tasks.losses import at_least_float32, defined_pixels
from mtan_jax.types import SumAndCount

FACTOR = 1.25
DEGREES = 11.25


def correct_class(
    prediction: Float[Array, "b h w c"], target: Int[Array, "b h w"], labelled: Bool[Array, "b"]
) -> SumAndCount:
    """Counts pixels whose highest score is that of the true class. The target is -1 where void."""
    return _share(prediction.argmax(axis=-1) == target, defined_pixels(target, labelled))


def correct_depth(
    prediction: Float[Array, "b h w 1"], target: Float[Array, "b h w 1"], labelled: Bool[Array, "b"]
) -> SumAndCount:
    """Counts pixels with max(p/t, t/p) < 1.25. The target is positive, 0 where undefined."""
    prediction, target = at_least_float32(prediction), at_least_float32(target)
    right = (prediction < FACTOR * target) & (FACTOR * prediction > target)
    return _share(right.all(axis=-1), defined_pixels(target, labelled))


def correct_normal(
    prediction: Float[Array, "b h w 3"], target: Float[Array, "b h w 3"], labelled: Bool[Array, "b"]
) -> SumAndCount:
    """Counts pixels with an angle below 11.25 degrees. The target is 0 in all channels where undefined."""
    prediction, target = at_least_float32(prediction), at_least_float32(target)
    dot = (prediction * target).sum(axis=-1)
    lengths = jnp.sqrt((prediction**2).sum(axis=-1) * (target**2).sum(axis=-1))
    return _share(dot > math.cos(math.radians(DEGREES)) * lengths, defined_pixels(target, labelled))


def _share(right: Bool[Array, "b h w"], valid: Bool[Array, "b h w"]) -> SumAndCount:
    total, count = (x.sum(dtype=jnp.int32).astype(jnp.float32) for x in (right & valid, valid))
    return total, count
