"""Checks of the options of weighting methods."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

Value = TypeVar("Value")


def check_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    """Returns the task names as a tuple.

    Raises:
        ValueError: no task, a repeated name, a bare string, or a name that is not text.
    """
    is_named = not isinstance(tasks, str) and all(isinstance(task, str) for task in tasks)
    if not is_named or not tasks or len(set(tasks)) != len(tasks):
        raise ValueError(f"tasks are {tasks!r}; expected a sequence of at least one name, without repeats")
    return tuple(tasks)


def in_task_order(name: str, tasks: tuple[str, ...], values: Mapping[str, Value]) -> tuple[Value, ...]:
    """The values of a mapping from task to value, in the order of the tasks.

    Args:
        name: of the method and the option, for error messages.
        tasks: task names.
        values: exactly one value per task.

    Raises:
        TypeError: the values are not a mapping.
        ValueError: a task has no value, or a value has no task.
    """
    if not hasattr(values, "keys"):
        raise TypeError(
            f"{name} is {type(values).__name__}; expected a dictionary with one value per task, {list(tasks)}"
        )
    if set(values) != set(tasks):
        missing = sorted(set(tasks) - set(values))
        unknown = sorted(set(values) - set(tasks))
        raise ValueError(f"{name}: missing {missing}, unknown {unknown}; expected exactly {list(tasks)}")
    return tuple(values[task] for task in tasks)


def check_choice(name: str, option: str, value: str, known: tuple[str, ...]) -> None:
    """Raises a ValueError unless an option is one of the known values."""
    if value not in known:
        listed = " or ".join([", ".join(map(repr, known[:-1])), repr(known[-1])])
        raise ValueError(f"{name} {option} is {value!r}; expected {listed}")


def check_number(
    name: str,
    option: str,
    value: object,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
) -> None:
    """Raises a ValueError unless an option is a finite number that is > above, >= least and <= most."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if is_number and above < value and least <= value <= most:  # type: ignore[operator]
        return
    if most < math.inf:
        expected = f"number from {least:g} to {most:g}"
    elif above > -math.inf:
        expected = f"finite number above {above:g}"
    else:
        expected = "finite number" if least == -math.inf else f"finite number of at least {least:g}"
    raise ValueError(f"{name} {option} is {value!r}; expected a {expected}")


def check_count(name: str, option: str, value: object, *, least: int) -> None:
    """Raises a ValueError unless an option is an integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} {option} is {value!r}; expected an integer of at least {least}")


def check_weight(name: str, task: str, weight: float) -> float:
    """Returns a constant weight as a float.

    Raises:
        ValueError: it is not a finite number of at least 0.
    """
    if isinstance(weight, bool | str):
        raise ValueError(f"{name} weight of {task!r} is {weight!r}; expected a number")
    number = float(weight)
    if not 0 <= number < float("inf"):
        raise ValueError(f"{name} weight of {task!r} is {number}; expected a finite number of at least 0")
    return number
