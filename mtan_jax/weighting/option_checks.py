"""Checks of the options of weighting methods."""

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Value = TypeVar("Value")


def check_tasks(tasks: Iterable[str]) -> tuple[str, ...]:
    """Returns the task names as a tuple.

    Raises:
        ValueError: no task, a repeated name, a bare string, or a name that is not text.
    """
    names = () if isinstance(tasks, str) or not isinstance(tasks, Iterable) else tuple(tasks)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ValueError(f"tasks are {tasks!r}; expected a sequence of at least one name, without repeats")
    return names


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
) -> float:
    """Returns an option as a number of Python. NumPy scalars and arrays of one number are accepted.

    Raises:
        ValueError: it is not a finite number that is > above, >= least and <= most.
    """
    number = _python_number(value)
    if number is not None and math.isfinite(number) and above < number and least <= number <= most:
        return number
    found = value if number is None else number
    if most < math.inf:
        lower = f"from {least:g}" if above == -math.inf else f"above {above:g} and"
        expected = f"number {lower} {'to' if above == -math.inf else 'at most'} {most:g}"
    elif above > -math.inf:
        expected = f"finite number above {above:g}"
    else:
        expected = "finite number" if least == -math.inf else f"finite number of at least {least:g}"
    raise ValueError(f"{name} {option} is {found!r}; expected a {expected}")


def check_count(name: str, option: str, value: object, *, least: int) -> int:
    """Returns an option as an integer of Python. NumPy scalars and arrays of one integer are accepted.

    Raises:
        ValueError: it is not an integer of at least `least`.
    """
    number = _python_number(value)
    if not isinstance(number, int) or number < least:
        found = value if number is None else number
        raise ValueError(f"{name} {option} is {found!r}; expected an integer of at least {least}")
    return number


def _python_number(value: object) -> int | float | None:
    """A number, or an array of one number, as int or float; None for anything else.

    Arrays are converted because their types would change those of the arrays that methods compute.
    """
    is_array = isinstance(value, np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer)
    if is_array and value.shape == () and jnp.issubdtype(value.dtype, jnp.number):  # type: ignore[attr-defined]
        value = value.item()  # type: ignore[attr-defined]
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def check_unused(name: str, option: str, value: object, where: str) -> None:
    """Raises a ValueError if an option is given although it has no effect.

    Args:
        name: of the method.
        option: name of the option.
        value: of the option; None if it is not given.
        where: what makes it ineffective, such as "variant 'mtan'".
    """
    if value is not None:
        raise ValueError(f"{name} {option} is {value!r}, but has no effect with {where}; leave it out")


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
