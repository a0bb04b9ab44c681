"""Smooth Tchebycheff scalarization."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32

from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.numerics import LARGEST_EXPONENT, SMALLEST_LOSS, nan_if_negative
from mtan_jax.weighting.option_checks import check_count, check_number, check_tasks, check_unused
from mtan_jax.weighting.preferences import PerTask, per_task


class STCHState(NamedTuple):
    """State of `stch`.

    Attributes:
        steps: steps so far.
        loss_sum: sum of each task's losses over the epoch after the warm-up.
        loss_count: number of steps in these sums.
    """

    steps: Int32[Array, ""]
    loss_sum: Float[Array, "t"]
    loss_count: Float[Array, "t"]


@declare("balancer")
def stch(
    tasks: Sequence[str],
    *,
    steps_per_epoch: int | None = None,
    mu: float = 1.0,
    warmup_epochs: int | None = None,
    preferences: PerTask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Smooth Tchebycheff scalarization (STCH; Lin, Zhang, Yang, Liu, Wang, Zhang, ICML 2024).

    Equation: the total loss is K mu log sum_i exp(l_i / mu), a smooth maximum of l_i = log(L_i / n_i), with n_i the
    mean loss of one epoch (equation 9, with the logarithms of the authors' code). So w_i = K softmax(l / mu)_i / L_i.
    n is computed over the epoch that follows the first `warmup_epochs`. Up to the end of that epoch the total loss is
    sum_i log L_i.

    With `preferences` r, the total loss is mu log sum_i exp(r_i L_i / mu) from the first step on: equation 9 itself,
    with an ideal point of 0. So w_i = r_i softmax(r L / mu)_i. For small mu, the minimum has equal r_i L_i.

    Losses below 1e-10 count as 1e-10. Absent tasks have weight 0 and do not change n.

    Args:
        tasks: task names.
        steps_per_epoch: length of an epoch in steps; required without `preferences`, and not used with them.
        mu: smoothing; the smaller, the more the worst task dominates.
        warmup_epochs: epochs before the one over which n is computed, only without `preferences`; None: 4.
        preferences: r, as a mapping from task to a positive number, or an array in the order of the tasks, which may be
            traced (`jax.vmap` over preferences).

    Raises:
        ValueError: an option is out of range or has no effect.

    Example:
        >>> from mtan_jax.weighting import stch
        >>> tx = stch(("semantic", "depth"), steps_per_epoch=397)
    """
    tasks = check_tasks(tasks)
    mu = check_number("stch", "mu", mu, above=0)
    if preferences is not None:
        check_unused("stch", "warmup_epochs", warmup_epochs, "preferences")
        return _with_preferences(tasks, mu, per_task("stch", "preferences", tasks, preferences))
    if steps_per_epoch is None:
        raise ValueError("stch has no steps_per_epoch; it needs the length of an epoch in steps, or preferences")
    epoch_length = check_count("stch", "steps_per_epoch", steps_per_epoch, least=1)
    warmup = check_count("stch", "warmup_epochs", 4 if warmup_epochs is None else warmup_epochs, least=0)

    def init() -> STCHState:
        count = len(tasks)
        return STCHState(jnp.zeros((), jnp.int32), jnp.zeros(count, jnp.float32), jnp.zeros(count, jnp.float32))

    def step(task_gradients: TaskGradients, state: STCHState) -> tuple[Float[Array, "t"], STCHState]:
        present = task_gradients.present
        given = task_gradients.weights * task_gradients.losses
        losses = jnp.maximum(given, SMALLEST_LOSS)
        epoch = state.steps // epoch_length
        nadir = jnp.where(state.loss_count > 0, state.loss_sum / jnp.maximum(state.loss_count, 1), 1)
        logarithms = jnp.where(present, jnp.log(losses / nadir), -jnp.inf)
        # If every task is absent, all weights are 0.
        shares = jnp.where(present.any(), jax.nn.softmax(jnp.where(present.any(), logarithms, 0) / mu), 0)
        factors = jnp.where(epoch <= warmup, 1, present.sum() * shares)
        counted = (present & (epoch == warmup)).astype(state.loss_count.dtype)
        new = STCHState(
            optax.safe_increment(state.steps),
            state.loss_sum + counted * losses.astype(state.loss_sum.dtype),
            state.loss_count + counted,
        )
        return nan_if_negative(jnp.where(present, factors / losses, 0), given, present), new

    return balancer("stch", tasks, init, step)


def _with_preferences(
    tasks: tuple[str, ...], mu: float, preferences: Float[Array, "t"] | Float[np.ndarray, "t"]
) -> optax.GradientTransformationExtraArgs:
    def step(task_gradients: TaskGradients, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        present = task_gradients.present
        losses = task_gradients.weights * task_gradients.losses
        wanted = jnp.asarray(preferences, losses.dtype)
        exponents = jnp.where(present, jnp.minimum(wanted * losses / mu, LARGEST_EXPONENT), -jnp.inf)
        shares = jax.nn.softmax(jnp.where(present.any(), exponents, 0))
        return jnp.where(present, wanted * shares, 0), state

    return balancer("stch", tasks, optax.EmptyState, step)
