"""Which parameters a gradient method acts on, from its option `shared`."""

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import numpy as np
from jaxtyping import Bool

from mtan_jax.types import Path
from mtan_jax.weighting.core import TaskGradients
from mtan_jax.weighting.dependence import DependenceUnknownError
from mtan_jax.weighting.sharing import SHARED, has_task_axis, part_of

Shared = Literal["auto", "all", "all_but_heads", "backbone"] | Callable[[Path], bool]

_MOST_PATHS = 8  # per line of a message


def paths_of(tree: object) -> list[Path]:
    """The path of every leaf of a pytree: names of keys and attributes, and indices as text."""
    flat, _ = jax.tree.flatten_with_path(tree)
    return [tuple(jax.tree_util.keystr((key,), simple=True) for key in path) for path, _ in flat]


def choice(name: str, shared: Shared, tasks: tuple[str, ...]) -> Callable[[Path], bool] | None:
    """The choice of parameters by their paths; None if it is read from the program.

    Args:
        name: of the method, for error messages.
        shared: the option of the method.
        tasks: task names.

    Raises:
        ValueError: unknown choice.
    """
    if callable(shared):
        return shared
    if shared == "auto":
        return None
    if shared == "all":
        return lambda path: True
    if shared == "backbone":
        return lambda path: part_of(path, tasks) == SHARED
    if shared == "all_but_heads":
        return lambda path: not (has_task_axis(path) or any(key.startswith("head_") for key in path))
    raise ValueError(
        f"{name} shared is {shared!r}; expected 'auto', 'all', 'all_but_heads', 'backbone' or a function of the path"
    )


def select(name: str, shared: Shared, tasks: tuple[str, ...], paths: Sequence[Path]) -> list[bool]:
    """Selects the parameters by their paths.

    Raises:
        ValueError: none is selected.
    """
    is_shared = choice(name, shared, tasks)
    mask = [is_shared is None or bool(is_shared(path)) for path in paths]
    if paths and not any(mask):
        raise ValueError(
            f"{name} shared={_named(shared)} selects none of the parameters {_listed(paths)}; select at least one that "
            "is trained"
        )
    return mask


def find(
    name: str, shared: Shared, tasks: tuple[str, ...], paths: Sequence[Path], task_gradients: TaskGradients
) -> tuple[list[bool], Bool[np.ndarray, "t"]]:
    """Finds the parameters and the tasks that a method acts on, and checks the choice against the program.

    Args:
        name: of the method, for error messages.
        shared: the option of the method.
        tasks: task names.
        paths: of all parameters.
        task_gradients: of the step.

    Returns:
        Whether each parameter is shared, and whether each task takes part. With "auto", a task that depends on no
        shared parameter does not: its gradient, which is always 0, would be the shortest of all.

    Raises:
        ValueError: no parameter is selected, or all are although some belong to one task, or the program is unknown.
    """
    if shared != "auto":
        mask = select(name, shared, tasks, paths)
        if shared != "all" and all(mask) and len(tasks) > 1:
            _check_that_none_is_own(name, shared, paths, task_gradients)
        return mask, np.ones(len(tasks), bool)
    if task_gradients.dependence is None:
        raise ValueError(
            f"{name} cannot tell which parameters the tasks share. Differentiate by weighting.task_gradients, which "
            "reads it from the losses, or state it by the option shared, for example "
            "shared=lambda path: path[0] == 'encoder'"
        )
    table = task_gradients.dependence()
    mask = table.sum(1) >= min(2, len(tasks))
    if not mask.any():
        raise ValueError(f"{name} finds no parameter that two losses depend on. {_by_task(tasks, paths, table)}")
    return mask.tolist(), table[mask].any(0)


def _check_that_none_is_own(name: str, shared: Shared, paths: Sequence[Path], task_gradients: TaskGradients) -> None:
    try:
        table = None if task_gradients.dependence is None else task_gradients.dependence()
    except DependenceUnknownError:
        return
    own = [] if table is None else [path for path, row in zip(paths, table, strict=True) if row.sum() == 1]
    if own:
        raise ValueError(
            f"{name} shared={_named(shared)} selects all parameters, but some belong to one task: {_listed(own)}. "
            "Leave out shared, which then follows from the losses, or choose shared='all' if this is meant"
        )


def _by_task(tasks: tuple[str, ...], paths: Sequence[Path], table: Bool[np.ndarray, "p t"]) -> str:
    lines = []
    for task, column in zip(tasks, table.T, strict=True):
        lines.append(f"{task!r} depends on {_listed([path for path, on in zip(paths, column, strict=True) if on])}")
    return "; ".join(lines)


def _named(shared: Shared) -> str:
    return getattr(shared, "__qualname__", type(shared).__name__) if callable(shared) else repr(shared)


def _listed(paths: Sequence[Path]) -> str:
    names = ["/".join(path) or "(the array itself)" for path in paths]
    more = f" and {len(names) - _MOST_PATHS} more" if len(names) > _MOST_PATHS else ""
    return f"[{', '.join(names[:_MOST_PATHS])}{more}]"
