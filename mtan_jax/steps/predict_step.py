"""The prediction step."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mtan_jax.steps.batch import network_inputs
from mtan_jax.types import Batch, Variables

Predictions = dict[str, Float[Array, "b *hw c"]]
Masks = dict[str, Float[Array, "t b h w c"]]


def make_predict_step(model: nn.Module) -> Callable[[Variables, Batch], tuple[Predictions, Masks]]:
    """Makes the prediction step.

    Args:
        model: `apply(variables, image, train=False) -> {task: prediction}`. Networks with attention also write their
            masks to the collection "masks".

    Returns:
        `(variables, batch) -> (predictions by task, attention masks of all tasks by stage)`. Only "image" and "task" of
        the batch are read.
    """

    def predict_step(variables: Variables, batch: Batch) -> tuple[Predictions, Masks]:
        predictions, collections = model.apply(
            variables, batch["image"], train=False, mutable=["masks"], **network_inputs(batch)
        )
        masks = collections.get("masks", {})
        # The masks are those of one network for all tasks, or of one single-task network per task.
        networks = list(masks.values()) if any(isinstance(part, Mapping) for part in masks.values()) else [masks]
        return predictions, {name: jnp.concatenate([each[name] for each in networks]) for name in networks[0]}

    return predict_step


def stage_names(model: nn.Module, variables: Variables, image_size: tuple[int, int]) -> tuple[str, ...]:
    """Names of the stages with attention masks, in forward order.

    The step itself cannot return this order, since compiled functions return dictionaries with sorted keys.

    Args:
        model: the network.
        variables: variables of the network, as arrays or shapes.
        image_size: height and width.
    """
    names: list[str] = []
    # Masks that `init` has stored would keep their order, that of sorted keys.
    variables = {name: arrays for name, arrays in variables.items() if name != "masks"}

    def collect(variables: Variables) -> None:
        batch: Batch = {"image": jnp.zeros((1, *image_size, 3))}  # type: ignore[typeddict-item]
        names.extend(make_predict_step(model)(variables, batch)[1])

    jax.eval_shape(collect, variables)
    return tuple(names)
