"""The step of prediction."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from mtan_jax.steps.batch import Batch, tasks_of_rows


def make_predict_step(model: nn.Module) -> Callable[[Any, Batch], tuple[dict[str, Array], dict[str, Array]]]:
    """Makes the step of prediction: `(variables, batch) -> ({task: prediction}, {stage: masks [t, b, h, w, c]})`.

    Of the batch it takes the images and, where each belongs to one task, the tasks.
    """

    def predict_step(variables: Any, batch: Batch) -> tuple[dict[str, Array], dict[str, Array]]:
        predictions, shown = model.apply(
            variables, batch["image"], train=False, mutable=["masks"], **tasks_of_rows(batch)
        )
        shown = shown.get("masks", {})
        networks = list(shown.values()) if any(isinstance(part, Mapping) for part in shown.values()) else [shown]
        return predictions, {name: jnp.concatenate([masks[name] for masks in networks]) for name in networks[0]}

    return predict_step


def stage_names(model: nn.Module, variables: Any, image_size: tuple[int, int]) -> tuple[str, ...]:
    """The stages in the order in which features pass them; dictionaries that leave a compiled step are sorted."""
    names: list[str] = []

    def note(variables: Any) -> None:
        image = jnp.zeros((1, *image_size, 3))
        names.extend(make_predict_step(model)(variables, {"image": image})[1])

    jax.eval_shape(note, variables)
    return tuple(names)
