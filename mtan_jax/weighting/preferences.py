"""Preference vectors: one positive number per task."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mtan_jax.weighting.option_checks import check_number, in_task_order

# A mapping from task to number, or an array with one number per task in the order of the tasks.
PerTask: TypeAlias = Mapping[str, float] | Float[Array, "t"] | Float[np.ndarray, "t"] | Sequence[float]


def per_task(
    name: str, option: str, tasks: Sequence[str], values: PerTask, *, zero: bool = False
) -> Float[Array, "t"] | Float[np.ndarray, "t"]:
    """The values of an option with one positive number per task, in the order of the tasks.

    An array may be traced: `jax.vmap` over preference vectors builds one transformation for all members. The values of
    a traced array are not checked.

    Args:
        name: of the method, for error messages.
        option: name of the option, for error messages.
        tasks: task names.
        values: a mapping from task to number, or an array in the order of the tasks.
        zero: whether 0 is allowed.

    Raises:
        ValueError: the values are not for exactly these tasks, or one is not positive and finite.
    """
    # ConfigDict is a mapping in all but its type.
    if isinstance(values, jax.Array | np.ndarray | Sequence):
        shape = np.shape(values)
        if shape != (len(tasks),):
            raise ValueError(
                f"{name} {option}: shape {shape}; expected a mapping from task to number, or one number per task, "
                f"({len(tasks)},)"
            )
        if isinstance(values, jax.core.Tracer):
            return jnp.asarray(values)
        given = dict(zip(tasks, values, strict=True))
    else:
        given = dict(zip(tasks, in_task_order(f"{name} {option}", tuple(tasks), values), strict=True))
    bound = {"least": 0} if zero else {"above": 0}
    numbers = [check_number(name, f"{option.removesuffix('s')} of {task!r}", given[task], **bound) for task in tasks]
    return np.array(numbers, np.float64)
