"""Predictions of all tasks from their features."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mtan_jax.models import ops
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
    """Applies each task's head, named `head_<task>`, and its activation to the task's features.

    Call it in a compact method: it creates the heads as submodules.

    Args:
        backbone: makes the heads.
        tasks: one head each.
        features: by task name.
        image: sets the height and width of the predictions.
        train: whether this is training.

    Returns:
        Predictions by task name, in float32 or wider.
    """
    _, height, width, _ = image.shape
    predictions = {}
    for task in tasks:
        head = backbone.head(channels=task.channels, image_size=(height, width), name=f"head_{task.name}")
        raw = ops.prediction_layout(head(features[task.name], train=train))
        predictions[task.name] = task.activation(raw.astype(jnp.promote_types(raw.dtype, jnp.float32)))
    return predictions
