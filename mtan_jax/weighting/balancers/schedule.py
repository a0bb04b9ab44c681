"""Weights as functions of the step and the losses."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32

from mtan_jax.types import Shape
from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.option_checks import check_tasks, check_weight, in_task_order

# JAX raises these errors where Python code needs the concrete value of a traced array.
_CONCRETE_VALUE_ERRORS = (
    jax.errors.ConcretizationTypeError,  # if, float, math
    jax.errors.TracerArrayConversionError,  # NumPy
    jax.errors.TracerIntegerConversionError,  # range, indexing
)

Weights: TypeAlias = Float[Array, "t"] | Mapping[str, Array | float]
ScheduleOfAll: TypeAlias = Callable[[Int32[Array, ""], Float[Array, "t"]], Weights]
_Weigh: TypeAlias = Callable[[Int32[Array, ""], Float[Array, "t"]], Float[Array, "t"]]
_Result = TypeVar("_Result")


class ScheduleState(NamedTuple):
    """State of `schedule`.

    Attributes:
        steps: steps so far.
    """

    steps: Int32[Array, ""]


@declare("balancer")
def schedule(
    tasks: Sequence[str], *, weights: ScheduleOfAll | Mapping[str, optax.Schedule | float]
) -> optax.GradientTransformationExtraArgs:
    """Weights computed from the step and, optionally, the losses.

    Equation: w = f(t, L), with t = 0 at the first step. The weights are constants when the losses are differentiated.

    f takes one of two forms. A function `(step, losses) -> weights` returns the weights of all tasks, as an array [t]
    in task order or as {task: weight}. If each weight depends on the step alone, a mapping from task to a number or a
    function of the step is shorter. Any optax schedule is such a function, and so are those in
    `mtan_jax.weighting.schedules`.

    The step is an int32 scalar. The losses are those of this step's global batch, as logged: unweighted, whichever
    methods come before in the chain. The loss of a task without a label in the batch is 0. Both arguments are traced:
    only their types are known when the step is compiled. So write `jnp.where(step < 1000, 1.0, 0.1)` instead of
    `1.0 if step < 1000 else 0.1`. The state holds the step, so a resumed run continues where it stopped.

    Args:
        tasks: task names.
        weights: a function of step and losses, or a mapping from each task to a function of the step or a constant.

    Raises:
        ValueError: the weights are not for exactly these tasks; a constant is negative or not finite; a function takes
            other arguments, does not return one real number per task, or needs a concrete value of its arguments. A
            function of step and losses is also called at step 0, with all losses 1 and with one loss 0 and the others
            1; a non-finite weight is an error.

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


def in_order(tasks: tuple[str, ...], weights: Weights) -> Float[Array, "t"]:
    """Converts the weights that a function of step and losses returned to an array in task order.

    Raises:
        ValueError: they are not one real number per task.
    """
    values = in_task_order("schedule weights", tasks, weights) if isinstance(weights, Mapping) else weights
    try:
        array = jnp.asarray(values)
    except (TypeError, ValueError):
        array = None
    if array is None or array.shape != (len(tasks),) or not _is_real(array.dtype):
        found = values if array is None else f"{array.dtype} of shape {array.shape}"
        raise ValueError(
            f"schedule weights: the function returns {found}; expected one number for each of {list(tasks)}, as an "
            "array or as {task: weight}"
        )
    return array


def _of_all(tasks: tuple[str, ...], function: ScheduleOfAll) -> _Weigh:
    """Wraps a function of step and losses after trying it once."""

    def weigh(step: Int32[Array, ""], losses: Float[Array, "t"]) -> Float[Array, "t"]:
        return in_order(tasks, function(step, losses))

    what = "schedule weights"
    _check_arguments(what, function, 2, "(step, losses), returning the weights of all tasks")
    count = len(tasks)
    _trace(what, weigh, jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((count,), jnp.float32))
    with jax.ensure_compile_time_eval():
        for losses in (np.ones(count), *(1 - np.eye(count))):
            found = np.asarray(weigh(jnp.zeros((), jnp.int32), jnp.asarray(losses, jnp.float32)))
            if not np.isfinite(found).all():
                raise ValueError(
                    f"{what}: for losses {losses.tolist()} the function returns {found.tolist()}; expected finite "
                    "numbers, also where a loss is 0 because the batch has no label for the task: divide by "
                    "jnp.maximum(losses, 1e-6)"
                )
    return weigh


def _of_each(tasks: tuple[str, ...], weights: Mapping[str, optax.Schedule | float]) -> _Weigh:
    """Combines one function of the step, or constant, per task."""
    values = in_task_order("schedule weights", tasks, weights)
    functions = tuple(_as_function(task, value) for task, value in zip(tasks, values, strict=True))
    return lambda step, losses: jnp.stack([jnp.asarray(function(step), losses.dtype) for function in functions])


def _as_function(task: str, weight: optax.Schedule | float) -> optax.Schedule:
    """A task's weight as a function of the step, after tracing it once."""
    if not callable(weight):
        constant = check_weight("schedule", task, weight)
        return lambda step: constant
    what = f"schedule weight of {task!r}"
    _check_arguments(what, weight, 1, "the step; for step and losses, pass one function of all tasks: weights=function")
    traced = _trace(what, weight, jax.ShapeDtypeStruct((), jnp.int32))
    if not hasattr(traced, "shape") or traced.shape != () or not _is_real(traced.dtype):
        raise ValueError(f"{what}: the function returns {traced}; expected one number")
    return weight


def _check_arguments(what: str, function: Callable[..., object], count: int, expected: str) -> None:
    """Raises a ValueError unless a function can be called with `count` arguments."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C have none
        return
    try:
        signature.bind(*range(count))
    except TypeError as error:
        raise ValueError(f"{what}: the function takes {signature}; expected a function of {expected}") from error


def _trace(what: str, function: Callable[..., _Result], *arguments: Shape) -> _Result:
    """The shapes and dtypes of a function's result."""
    try:
        return jax.eval_shape(function, *arguments)
    except _CONCRETE_VALUE_ERRORS as error:
        raise ValueError(
            f"{what}: the function needs a concrete value of the step or of a loss, which is unknown while the "
            "training step is compiled; use jnp.where(step < 1000, 1.0, 0.1) instead of if, and jnp instead of math "
            "and numpy"
        ) from error


def _is_real(dtype: jnp.dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
