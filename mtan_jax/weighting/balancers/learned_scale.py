"""Balancers that learn one number a task beside the network, from the losses."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32

from mtan_jax.weighting.core import TaskGradients, balancer, check_number, check_tasks


class LearnedScaleState(NamedTuple):
    """State of a balancer that learns one number a task.

    Attributes:
        steps: taken so far, for the learning rate.
        scales: s.
        adam: the moments of s, and for each task the number of steps at which it was present.
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
    """The total loss sum_i term(s_i, L_i), in which the network and s are learned together, s by Adam.

    So w_i is the derivative of the term by L_i, with s as it was before this step, and s takes one step of Adam along
    the derivative by s_i. L_i includes the weights of the methods before. At a step where a task is absent its s and
    its moments stay as they are.

    Args:
        name: of the method, for messages.
        tasks: names, in the order of the losses.
        term: (s_i, L_i) -> the part of a task in the total loss.
        start: s before the first step.
        rate: that s is learned with, constant or a schedule of the step.

    Raises:
        ValueError: no task, one named twice, or a rate that is no number of at least 0.
    """
    tasks = check_tasks(tasks)
    if not callable(rate):
        check_number(name, "rate", rate, least=0)
    # One Adam a task, so that the steps at which a task is absent leave no trace in its moments.
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

        def keep_absent(new: Array, old: Array) -> Array:
            return jnp.where(task_gradients.present, new, old)

        scales = keep_absent(state.scales - step_size * direction, state.scales)
        new_adam = jax.tree.map(keep_absent, new_adam, state.adam)
        return by_loss, LearnedScaleState(optax.safe_increment(state.steps), scales, new_adam)

    return balancer(name, tasks, init, step)
