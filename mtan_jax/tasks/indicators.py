"""How well a task is done on a batch, as the share of its defined pixels that are right: from 0 to 1, higher is better.

A sum over the defined pixels and their number, as for losses. A pixel is right by thresholds of published tables: the
class; depth within a factor of 1.25 (Eigen, Puhrsch, Fergus, NIPS 2014), which is the same for inverse depth; a normal
within 11.25 degrees. NaN is never right.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtan_jax.tasks.losses import SumAndCount, at_least_float32, defined_pixels

FACTOR = 1.25
DEGREES = 11.25


def right_class(
    prediction: Float[Array, "b h w c"], target: Int[Array, "b h w"], labelled: Bool[Array, "b"]
) -> SumAndCount:
    """Pixels whose largest score is that of the true class; the target is -1 where void."""
    return _share(prediction.argmax(axis=-1) == target, defined_pixels(target, labelled))


def right_depth(
    prediction: Float[Array, "b h w 1"], target: Float[Array, "b h w 1"], labelled: Bool[Array, "b"]
) -> SumAndCount:
    """Pixels of depth or inverse depth with max(p/t, t/p) < 1.25; the target is above 0, and 0 where undefined."""
    prediction, target = at_least_float32(prediction), at_least_float32(target)
    right = (prediction < FACTOR * target) & (FACTOR * prediction > target)
    return _share(right.all(axis=-1), defined_pixels(target, labelled))


def right_direction(
    prediction: Float[Array, "b h w 3"], target: Float[Array, "b h w 3"], labelled: Bool[Array, "b"]
) -> SumAndCount:
    """Pixels whose normal is off by less than 11.25 degrees; the target is 0 over all channels where undefined."""
    prediction, target = at_least_float32(prediction), at_least_float32(target)
    dot = (prediction * target).sum(axis=-1)
    lengths = jnp.sqrt((prediction**2).sum(axis=-1) * (target**2).sum(axis=-1))
    return _share(dot > math.cos(math.radians(DEGREES)) * lengths, defined_pixels(target, labelled))


def _share(right: Bool[Array, "b h w"], valid: Bool[Array, "b h w"]) -> SumAndCount:
    total, count = (x.sum(dtype=jnp.int32).astype(jnp.float32) for x in (right & valid, valid))
    return total, count
