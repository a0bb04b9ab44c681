"""What all networks end in."""

import jax.numpy as jnp
from jaxtyping import Array, Float

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
        raw = head(features[task.name], train=train)
        predictions[task.name] = task.activation(raw.astype(jnp.promote_types(raw.dtype, jnp.float32)))
    return predictions
