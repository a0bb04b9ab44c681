"""What all networks end in."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mtan_jax.models.ops import pixel_pairs
from mtan_jax.models.stage import Backbone
from mtan_jax.tasks import Task


def predict(
    backbone: Backbone,
    tasks: tuple[Task, ...],
    features: dict[str, Float[Array, "b h w c"]],
    image: Float[Array, "b H W 3"],
    *,
    train: bool,
) -> dict[str, Float[Array, "b H W _"]]:
    """Each task's prediction from its features, of the image's size, by a head under its name.

    Called in a compact method.
    """
    _, height, width, _ = image.shape
    predictions = {}
    for task in tasks:
        head = backbone.head(channels=task.channels, image_size=(height, width), name=f"head_{task.name}")
        raw = pixel_pairs.on_tpus(_by_channel, lambda raw: raw, head(features[task.name], train=train))
        predictions[task.name] = task.activation(raw.astype(jnp.promote_types(raw.dtype, jnp.float32)))
    return predictions


def _by_channel(raw: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """What it is given, apart from what comes before and after as [b, c, h, w], forwards and backwards.

    XLA for TPUs would keep it, and all that leads from it to a loss, in the layout of the convolution that it comes
    from: with 128 elements of the last axis together, of which a prediction fills few (docs/performance.md).
    """
    return jnp.moveaxis(lax.optimization_barrier(jnp.moveaxis(raw, -1, 1)), 1, -1)
