"""Constant baseline: metrics of the best constant predictions on a split."""

from collections.abc import Iterable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from mtan_jax.tasks.accumulator import Accumulator
from mtan_jax.tasks.losses import defined_pixels
from mtan_jax.tasks.metrics import Metric
from mtan_jax.tasks.task import Task
from mtan_jax.types import Batch

MAX_PIXELS = 2**24
CHUNK = 2**16


def best_constants(tasks: Sequence[Task], examples: Iterable[Batch]) -> dict[str, float]:
    """Evaluates each task's best constant prediction for its main metric.

    The constants are the most frequent class, the median depth (also for `rel_error`) and the direction with the
    smallest mean angle. They are fitted on the split they are evaluated on, so no constant fitted on training data is
    better. The metrics are those of the tasks with the protocol "exact".

    Args:
        tasks: tasks; those without `constant` are left out.
        examples: batches of NumPy arrays, of which `targets`, `labelled` and `weight` are read once. Above 2^24
            labelled pixels per task (512 examples of 128x256), only every second, fourth, ... pixel is kept.

    Returns:
        Metrics by "task/metric"; NaN for tasks without labelled pixels.
    """
    tasks = [task for task in tasks if task.constant is not None]
    pixels = {task.name: _Pixels() for task in tasks}
    for batch in examples:
        for task in tasks:
            target = np.asarray(batch["targets"][task.target])
            labelled = np.asarray(batch["labelled"][task.target]) & (np.asarray(batch["weight"]) > 0)
            defined = defined_pixels(cast(Array, target), cast(Array, labelled))  # of NumPy arrays, a NumPy array
            pixels[task.name].add(target[defined])
    return {
        f"{task.name}/{metric}": value
        for task in tasks
        for metric, value in _score(task, pixels[task.name].values()).items()
    }


def _score(task: Task, values: Shaped[np.ndarray, "n ..."] | None) -> dict[str, float]:
    """Fits the constant to the pixels and evaluates it on them."""
    accumulator = Accumulator(task.metric("exact"))
    if values is None or task.constant is None:
        return accumulator.compute()
    constant = task.constant(values)

    @jax.jit  # with the prediction as an argument, because XLA would spend seconds on folding a constant
    def score(prediction: Array, target: Array) -> Metric:
        prediction = jnp.broadcast_to(prediction[None, None, None], (1, CHUNK, 1, len(constant)))
        return task.metric("exact").update(prediction, target, jnp.ones(1, bool))

    undefined = -1 if np.issubdtype(values.dtype, np.integer) else 0
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK]
        filling = [(0, CHUNK - len(chunk)), *[(0, 0)] * (chunk.ndim - 1)]
        accumulator.add(score(constant, np.pad(chunk, filling, constant_values=undefined)[None, :, None]))
    return accumulator.compute()


class _Pixels:
    """Collects pixels in order; drops every second one whenever there are more than `MAX_PIXELS`."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._stride = 1
        self._seen = 0

    def add(self, values: Shaped[np.ndarray, "n ..."]) -> None:
        self._parts.append(values[-self._seen % self._stride :: self._stride])
        self._seen += len(values)
        while sum(map(len, self._parts)) > MAX_PIXELS:
            self._parts = [np.concatenate(self._parts)[::2]]
            self._stride *= 2

    def values(self) -> Shaped[np.ndarray, "n ..."] | None:
        """The collected pixels, None if there are none."""
        return np.concatenate(self._parts) if self._seen else None
