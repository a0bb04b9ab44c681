"""Builds balancers that learn one number per task together with the network."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32

from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.numerics import nan_if_negative, update_where
from mtan_jax.weighting.option_checks import check_number, check_tasks


class LearnedScaleState(NamedTuple):
    """State of a balancer that learns one number per task.

    Attributes:
        steps: steps so far, for the learning rate.
        scales: the learned numbers s.
        adam: Adam's moments of s, and per task the number of steps at which it was present.
    """

    steps: Int32[Array, ""]
    scales: Float[Array, "t"]
    adam: optax.ScaleByAdamState


def learned_scale(
    name: str,
    tasks: Sequence[str],
    term: Callable[[Float[Array, ""], Float[Array, ""]], Float[Array, ""]],
    *,
    start: float,
    rate: float | optax.Schedule,
) -> optax.GradientTransformationExtraArgs:
    """Builds a balancer for the total loss sum_i term(s_i, L_i), which the network and s minimize together.

    w_i is the derivative of the term with respect to L_i, at the s before this step. s takes one Adam step along the
    derivative with respect to s_i. L_i includes the weights of the methods before. An absent task keeps its s and its
    moments.

    Args:
        name: of the method, for error messages.
        tasks: task names.
        term: maps (s_i, L_i) to the task's term of the total loss.
        start: initial s.
        rate: learning rate of s, constant or a function of the step.

    Raises:
        ValueError: no task, a repeated name, or a rate that is not a number of at least 0.
    """
    tasks = check_tasks(tasks)
    if not callable(rate):
        rate = check_number(name, "rate", rate, least=0)
    # One Adam per task, so that steps at which a task is absent do not change its moments.
    adam = optax.scale_by_adam()
    slopes = jax.vmap(jax.grad(term, argnums=(0, 1)))

    def init() -> LearnedScaleState:
        scales = jnp.full(len(tasks), start, jnp.float32)
        return LearnedScaleState(jnp.zeros((), jnp.int32), scales, jax.vmap(adam.init)(scales))

    def step(task_gradients: TaskGradients, state: LearnedScaleState) -> tuple[Float[Array, "t"], LearnedScaleState]:
        losses = (task_gradients.weights * task_gradients.losses).astype(state.scales.dtype)
        by_scale, by_loss = slopes(state.scales, losses)
        direction, new_adam = jax.vmap(adam.update)(by_scale, state.adam)
        step_size = jnp.asarray(rate(state.steps) if callable(rate) else rate, state.scales.dtype)
        scales, new_adam = update_where(
            task_gradients.present, (state.scales - step_size * direction, new_adam), (state.scales, state.adam)
        )
        factors = nan_if_negative(by_loss, losses, task_gradients.present)
        return factors, LearnedScaleState(optax.safe_increment(state.steps), scales, new_adam)

    return balancer(name, tasks, init, step)
