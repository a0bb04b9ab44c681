"""What a network takes over from that of another run: the way from one network to an adapted one, or to more tasks."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mtan_jax.interop.files import WeightsError
from mtan_jax.runtime.checkpoint import Checkpoints
from mtan_jax.steps import Rows
from mtan_jax.weighting.sharing import TASK_AXIS_PREFIX, has_task_axis

Path = tuple[str, ...]
Arrays = dict[Path, np.ndarray]
Loaded = dict[Path, np.ndarray | Rows]

ADAPTATIONS = ("adapter", "combination", "scores")  # what a task adds to the network: a new one begins without
COLLECTIONS = ("params", "batch_stats", "frozen")


def read_run(workdir: pathlib.Path) -> tuple[Arrays, tuple[str, ...]]:
    """The network in a run's newest checkpoint, by (collection, *path), and the names of its tasks.

    Raises:
        WeightsError: the folder is not that of a run of this program.
        CheckpointError: it has no checkpoint, or none that is whole.
    """
    config = workdir / "config.json"
    try:
        tasks = tuple(json.loads(config.read_text())["tasks"])
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{workdir} is a folder, so it should be the working directory of a run, but {config} cannot be read "
            f"({type(error).__name__}); give such a folder, or a file of weights"
        ) from error
    with Checkpoints(workdir, keep=1, best_metric="", higher_is_better=True, read_only=True) as checkpoints:
        state = checkpoints.arrays()
    network = {name: state[name] for name in COLLECTIONS if state.get(name)}
    return traverse_util.flatten_dict(network), tasks


def adopt(source: Arrays, source_tasks: Sequence[str], wanted: Mapping[Path, Any], tasks: Sequence[str]) -> Loaded:
    """The arrays that a network takes over from another one's.

    An array is taken where the other network has it under the same path, as a parameter or frozen. What belongs to
    single tasks is taken by the tasks' names. Where a task is new, or the other network has for all tasks in common
    what each has for itself here, a task begins with a copy of that, or of what the other network's first task has. A
    head is taken for a task of the same name and number of classes alone. What the other network lacks (adapters, heads
    and masks of new tasks) keeps its initial values. Of the common backbone all else must be there, and nothing of the
    other network's may be left over but its adaptations.

    Args:
        source: the other network's arrays, by (collection, *path).
        source_tasks: names of its tasks, in the order of its "own_" arrays.
        wanted: shapes of this network's arrays.
        tasks: names of its tasks.

    Returns:
        By path, what is taken.

    Raises:
        WeightsError: an array of the backbone has another shape, or is in one of the networks alone.
    """
    other = _Network(source, tuple(source_tasks))
    found: Loaded = {}
    for path, leaf in wanted.items():
        value = other.rows(path, tasks) if has_task_axis(path) else other.whole(path)
        if value is None:
            continue
        shape = (len(tasks), *value.values.shape[1:]) if isinstance(value, Rows) else value.shape
        if shape == leaf.shape:
            found[path] = jax.tree.map(lambda array, leaf=leaf: _cast(array, leaf.dtype), value)
        elif "backbone" in path:
            raise WeightsError(
                f"the network of that run does not fit: {'/'.join(path)} is {shape} there, {leaf.shape} here; "
                "config.model.backbone and config.model.width must be the same, and the kind of adapters if both have "
                "any"
            )
    if not any("backbone" in path for path in found):
        raise WeightsError("the network of that run does not fit: it has none of the backbone's arrays")
    here, there = _backbone(wanted), _backbone(source)
    for paths, problem in ((here - there, "has no"), (there - here, "has besides")):
        if paths:
            raise WeightsError(
                f"the network of that run does not fit: it {problem} {'/'.join(min(paths))} ({len(paths)} arrays of "
                "the backbone in all); config.model.backbone must be the same"
            )
    return found


def _backbone(arrays: Mapping[Path, Any]) -> set[Path]:
    """What the common backbone has in every architecture, whether frozen, of all tasks or of each."""
    paths = (path[1:] for path in arrays if path[0] in COLLECTIONS and path[1] == "backbone")
    plain = {(*module, name.removeprefix(TASK_AXIS_PREFIX)) for *module, name in paths}
    return {path for path in plain if path[-1] not in ADAPTATIONS}


def _cast(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Numbers in another type; positions of rows as they are."""
    return array if array.dtype.kind == "i" else array.astype(dtype)


class _Network:
    """A network that others take over from."""

    def __init__(self, arrays: Arrays, tasks: tuple[str, ...]):
        self._tasks = tasks
        self._arrays = {path[1:]: array for path, array in arrays.items()}  # of whatever collection

    def whole(self, path: Path) -> np.ndarray | None:
        """An array without an axis of tasks."""
        *module, name = path[1:]
        if (*module, name) in self._arrays:
            return self._arrays[*module, name]
        own = self._arrays.get((*module, TASK_AXIS_PREFIX + name))
        return None if own is None else own[0]

    def rows(self, path: Path, tasks: Sequence[str]) -> Rows | None:
        """An array with an axis of tasks, for those of the tasks that it is known for."""
        *module, name = path[1:]
        own = self._arrays.get((*module, name))
        start = self._arrays.get((*module, name.removeprefix(TASK_AXIS_PREFIX)))
        if start is None and own is not None and name.removeprefix(TASK_AXIS_PREFIX) not in ADAPTATIONS:
            start = own[0]
        rows = [own[self._tasks.index(t)] if own is not None and t in self._tasks else start for t in tasks]
        known = {i: row for i, row in enumerate(rows) if row is not None}
        return Rows(np.array(list(known)), np.stack(list(known.values()))) if known else None
