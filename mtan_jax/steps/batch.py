"""Reads a batch inside a step, where its arrays are JAX arrays."""

from typing import TypedDict, cast

from jaxtyping import Array, Bool, Int32

from mtan_jax.tasks import Task
from mtan_jax.types import Batch


class NetworkInputs(TypedDict, total=False):
    """Keyword arguments of a network besides the images. Networks for images of single tasks need each row's task."""

    tasks: Int32[Array, "b"]


def network_inputs(batch: Batch) -> NetworkInputs:
    """Returns `tasks` for a batch of images of single tasks, {} otherwise."""
    return {"tasks": cast(Array, batch["task"])} if "task" in batch else {}


def labels_of(task: Task, batch: Batch) -> tuple[Array, Bool[Array, "b"]]:
    """Returns the target of a task and whether each row has a label."""
    return cast(Array, batch["targets"][task.target]), cast(Array, batch["labelled"][task.target])
