"""Drops what a configuration says about tasks that are not part of the run.

`--config.tasks` takes fewer tasks than a configuration file is written for; weights and baselines of the others then
have no use. Names that no task has are kept: whoever reads them reports the mistake.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from mtan_jax import weighting
from mtan_jax.experiment.task_data import TaskData

Value = TypeVar("Value")


def absent_names(data: TaskData) -> frozenset[str]:
    """Names that a configuration may mention, of tasks that the run does not have."""
    return data.known_names - {task.name for task in data.tasks}


def without(absent: frozenset[str], values: Mapping[str, Value]) -> dict[str, Value]:
    """The entries of "task" or "task/metric" whose task is not absent."""
    return {name: value for name, value in values.items() if name.partition("/")[0] not in absent}


def options_without(absent: frozenset[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """A weighting method's options, of which mappings are by task; `primary` lists tasks."""
    kept = {name: without(absent, value) if isinstance(value, Mapping) else value for name, value in options.items()}
    primary = tuple(task for task in kept.get("primary") or () if task not in absent)
    return kept | {"primary": primary} if primary else kept  # all of them absent is a mistake, which the method reports


def methods_without(absent: frozenset[str], methods: weighting.Spec) -> weighting.Spec:
    """Weighting methods, whose options may stand beside their names."""
    if isinstance(methods, str):
        return methods
    return tuple(
        (item[0], options_without(absent, item[1]))
        if isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[1], Mapping)
        else item
        for item in methods
    )
