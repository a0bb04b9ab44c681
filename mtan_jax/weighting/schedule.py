"""Weights that are functions of the step."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32

from mtan_jax.weighting.core import TaskGradients, balancer, check_tasks, check_weight, one_a_task

# What Python code that must know the value of a traced step raises: if, float and math; NumPy; range and indexing.
_CONCRETE_STEP_ERRORS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


class ScheduleState(NamedTuple):
    """State of `schedule`.

    Attributes:
        steps: taken so far.
    """

    steps: Int32[Array, ""]


def schedule(
    tasks: Sequence[str], *, weights: Mapping[str, optax.Schedule | float]
) -> optax.GradientTransformationExtraArgs:
    """Weights that follow the step: w_i(t), t = 0 at the first step.

    Any optax schedule will do, and any Python function that JAX can trace: it gets the step as an int32 scalar of which
    only the type is known while the step is compiled, so a choice by the step is `jnp.where(step < 1000, 1.0, 0.1)` and
    not `1.0 if step < 1000 else 0.1`. The step is counted in the state, so that a resumed run goes on where it stopped.

    Args:
        tasks: names, in the order of the losses.
        weights: for each task a function from the step to its weight, or a constant.

    Raises:
        ValueError: the weights are not of exactly these tasks; a constant is negative or not finite; a function does
            not give one real number, or needs the value of the step in Python.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from mtan_jax.weighting import schedule
        >>> tx = schedule(
        ...     ("semantic", "depth", "normal"),
        ...     weights={
        ...         "semantic": 1.0,
        ...         "depth": optax.linear_schedule(1.0, 0.1, transition_steps=10_000),
        ...         "normal": lambda step: jnp.where(step < 1000, 0.0, 1.0),
        ...     },
        ... )
    """
    tasks = check_tasks(tasks)
    values = one_a_task("schedule", tasks, weights)
    functions = tuple(_as_function(task, value) for task, value in zip(tasks, values, strict=True))

    def init() -> ScheduleState:
        return ScheduleState(jnp.zeros((), jnp.int32))

    def step(task_gradients: TaskGradients, state: ScheduleState) -> tuple[Float[Array, "t"], ScheduleState]:
        dtype = task_gradients.weights.dtype
        factors = jnp.stack([jnp.asarray(function(state.steps), dtype) for function in functions])
        return factors, ScheduleState(optax.safe_increment(state.steps))

    return balancer("schedule", tasks, init, step)


def _as_function(task: str, weight: optax.Schedule | float) -> optax.Schedule:
    """The weight of a task as a function of the step that has been traced once."""
    if not callable(weight):
        constant = check_weight("schedule", task, weight)
        return lambda step: constant
    try:
        traced = jax.eval_shape(weight, jax.ShapeDtypeStruct((), jnp.int32))
    except _CONCRETE_STEP_ERRORS as error:
        raise ValueError(
            f"schedule weight of {task!r}: the function needs the value of the step in Python, which is not known "
            "while the training step is compiled; use jnp.where(step < 1000, 1.0, 0.1) in place of if, and jnp in "
            "place of math and numpy"
        ) from error
    if not hasattr(traced, "shape") or traced.shape != () or not jnp.issubdtype(traced.dtype, jnp.number):
        raise ValueError(f"schedule weight of {task!r}: the function gives {traced}; one number is needed")
    return weight
