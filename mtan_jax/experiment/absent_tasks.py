"""Removes from a configuration the entries of tasks that the run lacks.

`--config.tasks` may select some of the tasks that a configuration file was written for. The weights and baselines that
the file sets for the other tasks are then dropped. Unknown names are kept, so that the code that reads them reports the
mistake.
"""

from collections.abc import Mapping
from typing import TypeVar

from mtan_jax import weighting
from mtan_jax.experiment.task_data import TaskData
from mtan_jax.types import Options

Value = TypeVar("Value")


def absent_names(data: TaskData) -> frozenset[str]:
    """Names of tasks that a configuration may mention but the run does not have."""
    return data.known_names - {task.name for task in data.tasks}


def without(absent: frozenset[str], values: Mapping[str, Value]) -> dict[str, Value]:
    """Drops the entries "task" or "task/metric" of absent tasks."""
    return {name: value for name, value in values.items() if name.partition("/")[0] not in absent}


def options_without(absent: frozenset[str], options: Options) -> Options:
    """Drops absent tasks from a weighting method's options: from mappings by task and from `primary`."""
    kept = {name: without(absent, value) if isinstance(value, Mapping) else value for name, value in options.items()}
    primary = tuple(task for task in kept.get("primary") or () if task not in absent)
    return kept | {"primary": primary} if primary else kept  # the method reports an error if all are absent


def methods_without(absent: frozenset[str], methods: weighting.Spec) -> weighting.Spec:
    """Drops absent tasks from the options in a sequence of (method, options) pairs."""
    if isinstance(methods, str):
        return methods
    return tuple(
        (item[0], options_without(absent, item[1]))
        if isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[1], Mapping)
        else item
        for item in methods
    )
