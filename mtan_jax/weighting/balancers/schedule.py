"""Weights that are functions of the step, and of the losses."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32

from mtan_jax.weighting.core import TaskGradients, balancer, check_tasks, check_weight, one_a_task
from mtan_jax.weighting.declaration import declare

# What Python code that must know a traced value raises: if, float and math; NumPy; range and indexing.
_CONCRETE_VALUE_ERRORS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)

ScheduleOfAll = Callable[[Int32[Array, ""], Float[Array, "t"]], Float[Array, "t"] | Mapping[str, Any]]
_Weigh = Callable[[Int32[Array, ""], Float[Array, "t"]], Float[Array, "t"]]


class ScheduleState(NamedTuple):
    """State of `schedule`.

    Attributes:
        steps: taken so far.
    """

    steps: Int32[Array, ""]


@declare("balancer")
def schedule(
    tasks: Sequence[str], *, weights: ScheduleOfAll | Mapping[str, optax.Schedule | float]
) -> optax.GradientTransformationExtraArgs:
    """Weights that follow the step, and the losses where they are asked for.

    Equation: w = f(t, L), with t = 0 at the first step; the weights are constants when the losses are differentiated.

    There are two ways to write f. A function `(step, losses) -> weights` gives the weights of all tasks, as an array
    [t] in the order of the tasks or as {task: weight}. Where each task's weight depends on the step alone, a mapping
    from each task to a number or to a function of the step is shorter; any optax schedule is such a function, and so
    are those of `mtan_jax.weighting.schedules`.

    The step is an int32 scalar. The losses are those of this step's global batch, unweighted, whatever stands before
    this method in the chain: the numbers of the log. The loss of a task without a label in the batch is 0. Both
    are traced: only their types are known while the step is compiled, so a choice by the step is
    `jnp.where(step < 1000, 1.0, 0.1)` and not `1.0 if step < 1000 else 0.1`. The step is counted in the state, so that
    a resumed run goes on where it stopped.

    Args:
        tasks: names, in the order of the losses.
        weights: a function of step and losses; or for each task a function of the step, or a constant.

    Raises:
        ValueError: the weights are not of exactly these tasks; a constant is negative or not finite; a function takes
            other arguments, does not give one real number a task, needs a value of its arguments in Python, or gives
            no finite number at the first step for losses of 1 or where one of them is 0.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from mtan_jax.weighting import schedule
        >>> tasks = ("semantic", "depth", "normal")
        >>> tx = schedule(
        ...     tasks,
        ...     weights={
        ...         "semantic": 1.0,
        ...         "depth": optax.linear_schedule(1.0, 0.1, transition_steps=10_000),
        ...         "normal": lambda step: jnp.where(step < 1000, 0.0, 1.0),
        ...     },
        ... )
        >>> def largest_first(step, losses):
        ...     return len(losses) * losses / jnp.maximum(losses.sum(), 1e-6)
        >>> tx = schedule(tasks, weights=largest_first)
    """
    tasks = check_tasks(tasks)
    weigh = _of_all(tasks, weights) if callable(weights) else _of_each(tasks, weights)

    def init() -> ScheduleState:
        return ScheduleState(jnp.zeros((), jnp.int32))

    def step(task_gradients: TaskGradients, state: ScheduleState) -> tuple[Float[Array, "t"], ScheduleState]:
        factors = weigh(state.steps, task_gradients.losses).astype(task_gradients.weights.dtype)
        return factors, ScheduleState(optax.safe_increment(state.steps))

    return balancer("schedule", tasks, init, step)


def in_order(tasks: tuple[str, ...], weights: Any) -> Float[Array, "t"]:
    """What a function of all tasks gives, as an array in their order.

    Raises:
        ValueError: it is not one real number a task.
    """
    values = one_a_task("schedule", tasks, weights) if isinstance(weights, Mapping) else weights
    try:
        array = jnp.asarray(values)
    except (TypeError, ValueError):
        array = None
    if array is None or array.shape != (len(tasks),) or not _is_real(array.dtype):
        found = values if array is None else f"{array.dtype} of shape {array.shape}"
        raise ValueError(
            f"schedule weights: the function gives {found}; one number for each of {list(tasks)} is needed, as an "
            "array or as {task: weight}"
        )
    return array


def _of_all(tasks: tuple[str, ...], function: Callable) -> _Weigh:
    """The weights of a function of step and losses that has been tried once."""

    def weigh(step: Int32[Array, ""], losses: Float[Array, "t"]) -> Float[Array, "t"]:
        return in_order(tasks, function(step, losses))

    what = "schedule weights"
    _check_arguments(what, function, 2, "(step, losses) is needed, which gives the weights of all tasks")
    count = len(tasks)
    _trace(what, weigh, jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((count,), jnp.float32))
    with jax.ensure_compile_time_eval():
        for losses in (np.ones(count), *(1 - np.eye(count))):
            found = np.asarray(weigh(jnp.zeros((), jnp.int32), jnp.asarray(losses, jnp.float32)))
            if not np.isfinite(found).all():
                raise ValueError(
                    f"{what}: for losses {losses.tolist()} the function gives {found.tolist()}; finite numbers are "
                    "needed, also where a loss is 0, as that of a task without a label in the batch: divide by "
                    "jnp.maximum(losses, 1e-6)"
                )
    return weigh


def _of_each(tasks: tuple[str, ...], weights: Mapping[str, optax.Schedule | float]) -> _Weigh:
    """The weights of one function of the step, or constant, a task."""
    values = one_a_task("schedule", tasks, weights)
    functions = tuple(_as_function(task, value) for task, value in zip(tasks, values, strict=True))
    return lambda step, losses: jnp.stack([jnp.asarray(function(step), losses.dtype) for function in functions])


def _as_function(task: str, weight: optax.Schedule | float) -> optax.Schedule:
    """The weight of a task as a function of the step that has been traced once."""
    if not callable(weight):
        constant = check_weight("schedule", task, weight)
        return lambda step: constant
    what = f"schedule weight of {task!r}"
    _check_arguments(what, weight, 1, "the step is needed (of step and losses, one of all tasks: weights=function)")
    traced = _trace(what, weight, jax.ShapeDtypeStruct((), jnp.int32))
    if not hasattr(traced, "shape") or traced.shape != () or not _is_real(traced.dtype):
        raise ValueError(f"{what}: the function gives {traced}; one number is needed")
    return weight


def _check_arguments(what: str, function: Callable, count: int, needed: str) -> None:
    """Raises a ValueError where a function does not take so many arguments."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some that are written in C have none
        return
    try:
        signature.bind(*range(count))
    except TypeError as error:
        raise ValueError(f"{what}: the function takes {signature}; one of {needed}") from error


def _trace(what: str, function: Callable, *arguments: jax.ShapeDtypeStruct) -> Any:
    """The shapes and types that a function gives."""
    try:
        return jax.eval_shape(function, *arguments)
    except _CONCRETE_VALUE_ERRORS as error:
        raise ValueError(
            f"{what}: the function needs the value of the step, or of a loss, in Python, which is not known while the "
            "training step is compiled; use jnp.where(step < 1000, 1.0, 0.1) in place of if, and jnp in place of math "
            "and numpy"
        ) from error


def _is_real(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
