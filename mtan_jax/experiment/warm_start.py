"""Initializes a network from another run's checkpoint: fine-tuning, adapters on a pretrained network, added tasks."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import numpy as np
from flax import traverse_util

from mtan_jax.experiment import compression
from mtan_jax.interop.files import WeightsError
from mtan_jax.runtime.checkpoint import Checkpoints
from mtan_jax.steps import Rows
from mtan_jax.types import Path, Shape
from mtan_jax.weighting.sharing import TASK_AXIS_PREFIX, has_task_axis

Arrays: TypeAlias = dict[Path, np.ndarray]
Loaded: TypeAlias = dict[Path, np.ndarray | Rows]

# What an architecture adds to a pretrained network.
ADAPTATIONS = ("adapter", "combination", "scores", *compression.NAMES)
COLLECTIONS = ("params", "batch_stats", "frozen")


def read_run(workdir: pathlib.Path) -> tuple[Arrays, tuple[str, ...]]:
    """Reads the network of a run's newest checkpoint, by (collection, *path), and the names of its tasks.

    Raises:
        WeightsError: the folder is not the working directory of a run.
        CheckpointError: the run has no checkpoint, or only damaged ones.
    """
    config = workdir / "config.json"
    try:
        tasks = tuple(json.loads(config.read_text())["tasks"])
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{workdir} is not the working directory of a run: {config} cannot be read ({type(error).__name__}); "
            "expected such a folder, or a file of weights"
        ) from error
    with Checkpoints(workdir, keep=1, best_metric="", higher_is_better=True, read_only=True) as checkpoints:
        state = checkpoints.arrays()
    network = {name: state[name] for name in COLLECTIONS if state.get(name)}
    return traverse_util.flatten_dict(network), tasks


def initialize_from(
    source: Arrays, source_tasks: Sequence[str], wanted: Mapping[Path, Shape], tasks: Sequence[str]
) -> Loaded:
    """Selects the arrays of a pretrained network that initialize this network.

    - An array is used if the pretrained network has it under the same path, trained or frozen.
    - Task-specific arrays are matched by task name. The array of a new task is initialized from the pretrained
      network's shared array if there is one, or else from its first task's. If an array is shared there but
      task-specific here, every task starts from a copy. A new task's adaptations (adapters, combinations, mask scores)
      always start from their initial values.
    - Compressed adapters are computed from the parallel adapters of the same tasks; see `compression`.
    - A head is used only for a task of the same name with the same number of classes.
    - Arrays that the pretrained network lacks keep their initial values, such as new tasks' heads and attention masks.
    - Every array of the backbone, except adaptations, must exist in both networks. The pretrained network's adaptations
      may remain unused.

    Args:
        source: arrays of the pretrained network, by (collection, *path).
        source_tasks: names of its tasks, in the order of its task-specific arrays ("own_").
        wanted: shapes of this network's arrays.
        tasks: names of this network's tasks.

    Returns:
        Initial values by path: a whole array, or the known rows of an array with a task axis.

    Raises:
        WeightsError: an array of the backbone has another shape, or exists in only one of the two networks, or there
            are no adapters to compress.
    """
    source = compression.compress_adapters(source, source_tasks, wanted, tasks)
    pretrained = _Pretrained(source, tuple(source_tasks))
    found: Loaded = {}
    for path, leaf in wanted.items():
        value = pretrained.rows(path, tasks) if has_task_axis(path) else pretrained.array(path)
        if value is None:
            continue
        shape = (len(tasks), *value.values.shape[1:]) if isinstance(value, Rows) else value.shape
        if shape == leaf.shape:
            found[path] = jax.tree.map(lambda array, leaf=leaf: _cast(array, leaf.dtype), value)
        elif "backbone" in path:
            raise WeightsError(
                f"the pretrained network does not fit: {'/'.join(path)} is {shape} there, {leaf.shape} here; use the "
                "same config.model.backbone and config.model.width, and the same kind and rank of adapters if both "
                "have any"
            )
    if not any("backbone" in path for path in found):
        raise WeightsError("the pretrained network does not fit: it has none of the backbone's arrays")
    here, there = _backbone(wanted), _backbone(source)
    ours, theirs = "this network", "the pretrained network"
    for paths, owner, other in ((here - there, ours, theirs), (there - here, theirs, ours)):
        if paths:
            raise WeightsError(
                f"the pretrained network does not fit: {len(paths)} arrays of {owner}'s backbone do not exist in "
                f"{other}, such as {'/'.join(min(paths))}; use the same config.model.backbone"
            )
    return found


def _backbone(arrays: Mapping[Path, object]) -> set[Path]:
    """Paths of the backbone's arrays except adaptations; shared, frozen and task-specific arrays have equal paths."""
    paths = (path[1:] for path in arrays if path[0] in COLLECTIONS and path[1] == "backbone")
    plain = {(*module, name.removeprefix(TASK_AXIS_PREFIX)) for *module, name in paths}
    return {path for path in plain if path[-1] not in ADAPTATIONS}


def _cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Casts values; the integer positions in `Rows` remain as they are."""
    return array if array.dtype.kind == "i" else array.astype(dtype)


class _Pretrained:
    """Arrays of a pretrained network.

    Args:
        arrays: by (collection, *path).
        tasks: names, in the order of task-specific arrays.
    """

    def __init__(self, arrays: Arrays, tasks: tuple[str, ...]):
        self._tasks = tasks
        self._arrays = {path[1:]: array for path, array in arrays.items()}  # an array may be frozen in only one network

    def array(self, path: Path) -> np.ndarray | None:
        """The shared array at a path, or the first task's if each task has one; None if there is neither."""
        *module, name = path[1:]
        if (*module, name) in self._arrays:
            return self._arrays[*module, name]
        own = self._arrays.get((*module, TASK_AXIS_PREFIX + name))
        return None if own is None else own[0]

    def rows(self, path: Path, tasks: Sequence[str]) -> Rows | None:
        """The rows of a task-specific array that can be initialized, one row per task."""
        *module, name = path[1:]
        own = self._arrays.get((*module, name))
        start = self._arrays.get((*module, name.removeprefix(TASK_AXIS_PREFIX)))
        if start is None and own is not None and name.removeprefix(TASK_AXIS_PREFIX) not in ADAPTATIONS:
            start = own[0]
        rows = [own[self._tasks.index(t)] if own is not None and t in self._tasks else start for t in tasks]
        known = {i: row for i, row in enumerate(rows) if row is not None}
        return Rows(np.array(list(known)), np.stack(list(known.values()))) if known else None
