"""Scores of the best constant predictions on a split: the reference that a network must beat."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from mtan_jax.tasks.losses import defined_pixels
from mtan_jax.tasks.metrics import Accumulator, Metric
from mtan_jax.tasks.task import Task

MAX_PIXELS = 2**24
CHUNK = 2**16


def best_constants(tasks: Sequence[Task], examples: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Scores, for each task, the constant that is best for its main metric.

    The constant is fitted on the very split it is scored on, so no constant fitted on training data can do better: the
    most frequent class, the median depth (`rel_error` is that of the median too), the direction with the smallest mean
    angle. Scored by the task's own metric, with the protocol "exact".

    Args:
        tasks: those without `constant` are left out.
        examples: batches of NumPy arrays as in the batch contract: `targets`, `labelled` and `weight`. Read once.
            Beyond 2^24 defined pixels of a task (512 examples of 128x256), only every second, fourth, ... one is kept.

    Returns:
        Metrics by "task/metric"; NaN for a task without a defined pixel.
    """
    tasks = [task for task in tasks if task.constant is not None]
    pixels = {task.name: _Pixels() for task in tasks}
    for batch in examples:
        for task in tasks:
            target: Any = np.asarray(batch["targets"][task.target])
            labelled: Any = np.asarray(batch["labelled"][task.target]) & (np.asarray(batch["weight"]) > 0)
            pixels[task.name].add(target[defined_pixels(target, labelled)])
    return {
        f"{task.name}/{metric}": value
        for task in tasks
        for metric, value in _score(task, pixels[task.name].values()).items()
    }


def _score(task: Task, values: Shaped[np.ndarray, "n ..."] | None) -> dict[str, float]:
    """Fits the constant to the pixels and scores it on them."""
    accumulator = Accumulator(task.metric("exact"))
    if values is None or task.constant is None:
        return accumulator.compute()
    constant = task.constant(values)

    @jax.jit  # the prediction is an argument: as a constant of the program XLA would fold it for seconds
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
    """Pixels in the order they come; above `MAX_PIXELS` every second one is dropped, again and again."""

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
        """The pixels kept, None where there are none."""
        return np.concatenate(self._parts) if self._seen else None
