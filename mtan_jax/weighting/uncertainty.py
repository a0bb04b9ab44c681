"""Homoscedastic uncertainty weighting."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32

from mtan_jax.weighting.core import TaskGradients, balancer, check_tasks

_INITIAL_LOG_VARIANCE = {"mtan": -0.5, "nash": 0.0}
_NASH_LEARNING_RATE = 0.025


class UncertaintyState(NamedTuple):
    """State of `uncertainty`.

    Attributes:
        steps: taken so far, for the learning rate.
        log_variances: s.
        adam: the moments of s, and for each task the number of steps at which it was present.
    """

    steps: Int32[Array, ""]
    log_variances: Float[Array, "t"]
    adam: optax.ScaleByAdamState


def uncertainty(
    tasks: Sequence[str],
    *,
    variant: Literal["mtan", "nash"] = "mtan",
    learning_rate: float | optax.Schedule | None = None,
    log_variance_rate: float | optax.Schedule | None = None,
    initial_log_variance: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Uncertainty weighting: a learned log-variance s_i a task (Kendall, Gal, Cipolla, CVPR 2018).

    Equation: the total loss is sum_i L_i / (2 exp s_i) + s_i / 2, in which L_i includes the weights of the methods
    before this one. So w_i = 1 / (2 exp s_i), with s as it was before this step, and s takes one step of Adam along
    1/2 - L_i / (2 exp s_i). Two published codes differ in where s starts and how fast it is learned:

    - "mtan" (the code of MTAN): s starts at -0.5 and is learned at the network's rate.
    - "nash" (the code of Nash-MTL, ICML 2022, and of FAMO): s starts at 0 and is learned at 0.025. That code halves
      this rate together with the network's; for that, give `log_variance_rate` as a schedule.

    At its optimum s_i = log L_i, the term of a task is (1 + log L_i) / 2: the total loss is negative as soon as the
    losses are small (below 1/e = 0.37). This is no error, and why the log has the unweighted losses.

    At a step where a task is absent its s and its moments stay as they are.

    Args:
        tasks: names, in the order of the losses.
        variant: "mtan" or "nash".
        learning_rate: of the network, constant or a schedule of the step; "mtan" uses it.
        log_variance_rate: rate that s is learned with in place of the variant's, constant or a schedule of the step.
        initial_log_variance: where s starts in place of the variant's.

    Raises:
        ValueError: an option is out of its range, or "mtan" has no rate.

    Example:
        >>> from mtan_jax.weighting import uncertainty
        >>> tx = uncertainty(("semantic", "depth"), learning_rate=1e-4)
        >>> tx = uncertainty(("semantic", "depth"), variant="nash")
    """
    tasks = check_tasks(tasks)
    if variant not in _INITIAL_LOG_VARIANCE:
        raise ValueError(f"uncertainty variant is {variant!r}: one of {sorted(_INITIAL_LOG_VARIANCE)} is needed")
    start = _INITIAL_LOG_VARIANCE[variant] if initial_log_variance is None else initial_log_variance
    if not math.isfinite(start):
        raise ValueError(f"uncertainty initial_log_variance is {start}: a finite number is needed")
    if log_variance_rate is None:
        log_variance_rate = _NASH_LEARNING_RATE if variant == "nash" else learning_rate
    if log_variance_rate is None:
        raise ValueError("uncertainty learning_rate is None: variant 'mtan' needs the network's learning rate")
    if not callable(log_variance_rate) and not 0 <= log_variance_rate < math.inf:
        raise ValueError(f"uncertainty rate is {log_variance_rate}: a finite number of at least 0 is needed")
    return _uncertainty(tasks, start, log_variance_rate)


def _uncertainty(
    tasks: tuple[str, ...], start: float, rate: float | optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    # One Adam a task, so that the steps at which a task is absent leave no trace in its moments.
    adam = optax.scale_by_adam()

    def init() -> UncertaintyState:
        log_variances = jnp.full(len(tasks), start, jnp.float32)
        return UncertaintyState(jnp.zeros((), jnp.int32), log_variances, jax.vmap(adam.init)(log_variances))

    def step(task_gradients: TaskGradients, state: UncertaintyState) -> tuple[Float[Array, "t"], UncertaintyState]:
        factors = 0.5 * jnp.exp(-state.log_variances)
        losses = (task_gradients.weights * task_gradients.losses).astype(factors.dtype)
        direction, new_adam = jax.vmap(adam.update)(0.5 - factors * losses, state.adam)
        step_size = jnp.asarray(rate(state.steps) if callable(rate) else rate, factors.dtype)

        def keep_absent(new: Array, old: Array) -> Array:
            return jnp.where(task_gradients.present, new, old)

        log_variances = keep_absent(state.log_variances - step_size * direction, state.log_variances)
        new_adam = jax.tree.map(keep_absent, new_adam, state.adam)
        return factors, UncertaintyState(optax.safe_increment(state.steps), log_variances, new_adam)

    return balancer("uncertainty", tasks, init, step)
