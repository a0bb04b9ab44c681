"""What training and evaluation need from the functions of a task."""

import jax
import numpy as np

from mtan_jax.tasks.task import Task


def check_contract(task: Task, prediction: jax.ShapeDtypeStruct, target: jax.ShapeDtypeStruct) -> None:
    """Traces a task's loss and metric, so that a mistake is reported before anything is prepared or compiled.

    Args:
        task: any task.
        prediction: shape and type of the predictions of a batch.
        target: shape and type of the targets of that batch.

    Raises:
        ValueError: the loss does not return a sum and a count, the metric is not a pytree, its `update` does not return
            a state like its own, or `constant` no array [channels].
    """
    labelled = jax.ShapeDtypeStruct(prediction.shape[:1], bool)
    loss = jax.eval_shape(task.loss, prediction, target, labelled)
    if not (isinstance(loss, tuple) and [getattr(part, "shape", None) for part in loss] == [(), ()]):
        raise ValueError(
            f"Task.loss of {task.name!r} returns {_show(loss)}; expected two scalars: the sum over the labelled "
            "pixels, and their number"
        )
    empty = task.metric()
    if any(leaf is empty for leaf in jax.tree.leaves(empty)):
        raise ValueError(
            f"Task.metric of {task.name!r}: {type(empty).__name__} is not a pytree; decorate the class with "
            "flax.struct.dataclass"
        )
    state = jax.eval_shape(task.metric)
    updated = jax.eval_shape(lambda *batch: task.metric().update(*batch), prediction, target, labelled)
    if _signature(state) != _signature(updated):
        raise ValueError(
            f"{type(empty).__name__}.update, the metric of task {task.name!r}, returns {_show(updated)}; "
            f"expected a new state with arrays as in the state it updates, {_show(state)}"
        )
    if task.constant is not None:
        classes = np.issubdtype(target.dtype, np.integer)
        pixels = np.full((2, *target.shape[3:]), 0 if classes else 1, target.dtype)
        constant = np.shape(task.constant(pixels))
        if constant != (task.channels,):
            raise ValueError(
                f"Task.constant of {task.name!r} returns an array {list(constant)} for pixels {list(pixels.shape)}; "
                f"expected the constant prediction, [{task.channels}]"
            )


def _signature(tree: object) -> object:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _show(tree: object) -> str:
    """The tree with types and shapes in place of arrays."""
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)).replace("'", "")
