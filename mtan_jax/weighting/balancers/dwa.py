"""Dynamic weight averaging."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32

from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.numerics import LARGEST_EXPONENT, nan_if_negative
from mtan_jax.weighting.option_checks import check_choice, check_count, check_number, check_tasks, check_unused


@declare("balancer")
def dwa(
    tasks: Sequence[str],
    *,
    temperature: float = 2.0,
    variant: Literal["mtan", "nash"] = "mtan",
    steps_per_epoch: int | None = None,
    window: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Dynamic weight averaging (DWA): more weight for the tasks whose losses fall more slowly.

    Equation: w_i = K exp(r_i / T) / sum_j exp(r_j / T), with K tasks and r_i the mean loss of task i over one period of
    training divided by its mean loss over the period before. Two published codes differ in the period:

    - "mtan" (Liu, Johns, Davison, CVPR 2019, and their code): periods are epochs, and r compares the last two finished
      ones. w = 1 in the first two epochs. The total loss is the sum of w_i L_i.
    - "nash" (the code of Nash-MTL, Navon et al., ICML 2022, and of FAMO): periods are the last `window` steps,
      including this one, and the `window` steps before them. The total loss is the mean of w_i L_i over the tasks.
      w = 1 in the first `window` + 1 steps. As in that code, the history before the first step counts as losses of 1,
      so the weights depend on the scale of the losses during the first 2 `window` steps.

    The method reads the unweighted losses. A loss enters the means only at steps at which its task is present. r = 1
    for a task that is absent for a whole period, and for one whose earlier mean is 0.

    Args:
        tasks: task names.
        temperature: T; a larger one makes the weights more equal. Both codes use 2.
        variant: "mtan" or "nash".
        steps_per_epoch: length of an epoch in steps; required for "mtan".
        window: length of a period in steps, only for "nash"; None: 25.

    Raises:
        ValueError: an option is out of range or has no effect, or `steps_per_epoch` is missing for "mtan".

    Example:
        >>> from mtan_jax.weighting import dwa
        >>> tx = dwa(("semantic", "depth", "normal"), temperature=2.0, steps_per_epoch=397)
    """
    tasks = check_tasks(tasks)
    temperature = check_number("dwa", "temperature", temperature, above=0)
    check_choice("dwa", "variant", variant, ("mtan", "nash"))
    if variant == "nash":
        return _over_windows(
            tasks, temperature, check_count("dwa", "window", 25 if window is None else window, least=1)
        )
    check_unused("dwa", "window", window, "variant 'mtan'")
    if steps_per_epoch is None:
        raise ValueError("dwa steps_per_epoch is None; variant 'mtan' needs an integer of at least 1")
    return _over_epochs(tasks, temperature, check_count("dwa", "steps_per_epoch", steps_per_epoch, least=1))


class EpochState(NamedTuple):
    """State of the variant "mtan".

    Attributes:
        steps: steps so far.
        loss_sum: sums of the losses over this epoch, the previous one and the one before that, in this order.
        loss_count: number of steps in these sums.
    """

    steps: Int32[Array, ""]
    loss_sum: Float[Array, "3 t"]
    loss_count: Float[Array, "3 t"]


def _over_epochs(
    tasks: tuple[str, ...], temperature: float, steps_per_epoch: int
) -> optax.GradientTransformationExtraArgs:
    def init() -> EpochState:
        shape = (3, len(tasks))
        return EpochState(jnp.zeros((), jnp.int32), jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))

    def step(task_gradients: TaskGradients, state: EpochState) -> tuple[Float[Array, "t"], EpochState]:
        # Before the first epoch this shifts zeros.
        starts_epoch = state.steps % steps_per_epoch == 0
        loss_sum, loss_count = (
            jnp.where(starts_epoch, _shift(rows), rows) for rows in (state.loss_sum, state.loss_count)
        )
        ratio = _ratio(loss_sum[1], loss_count[1], loss_sum[2], loss_count[2])
        factors = _weights(ratio, temperature, warm=state.steps >= 2 * steps_per_epoch)
        present = task_gradients.present
        losses = jnp.where(present, task_gradients.losses, 0.0)
        loss_sum = loss_sum.at[0].add(losses.astype(loss_sum.dtype))
        loss_count = loss_count.at[0].add(present.astype(loss_count.dtype))
        factors = nan_if_negative(factors, losses, present)
        return factors, EpochState(optax.safe_increment(state.steps), loss_sum, loss_count)

    return balancer("dwa", tasks, init, step)


class WindowState(NamedTuple):
    """State of the variant "nash".

    Attributes:
        steps: steps so far.
        losses: losses of the last 2 * window steps, newest first; 0 where the task was absent, 1 before the first step.
        present: whether a loss counts.
    """

    steps: Int32[Array, ""]
    losses: Float[Array, "w2 t"]
    present: Bool[Array, "w2 t"]


def _over_windows(tasks: tuple[str, ...], temperature: float, window: int) -> optax.GradientTransformationExtraArgs:
    def init() -> WindowState:
        shape = (2 * window, len(tasks))
        return WindowState(jnp.zeros((), jnp.int32), jnp.ones(shape, jnp.float32), jnp.ones(shape, bool))

    def step(task_gradients: TaskGradients, state: WindowState) -> tuple[Float[Array, "t"], WindowState]:
        new_losses = jnp.where(task_gradients.present, task_gradients.losses, 0.0)
        losses = _shift(state.losses).at[0].set(new_losses.astype(state.losses.dtype))
        present = _shift(state.present).at[0].set(task_gradients.present)
        ratio = _ratio(losses[:window].sum(0), present[:window].sum(0), losses[window:].sum(0), present[window:].sum(0))
        factors = _weights(ratio, temperature, warm=state.steps > window) / len(tasks)
        factors = nan_if_negative(factors, new_losses, task_gradients.present)
        return factors, WindowState(optax.safe_increment(state.steps), losses, present)

    return balancer("dwa", tasks, init, step)


def _shift(rows: Array) -> Array:
    """Shifts the rows down by one and fills the first with zeros."""
    return jnp.concatenate([jnp.zeros_like(rows[:1]), rows[:-1]])


def _ratio(
    late_sum: Float[Array, "t"], late_count: Array, early_sum: Float[Array, "t"], early_count: Array
) -> Float[Array, "t"]:
    """The later mean divided by the earlier one; 1 where either is undefined."""
    defined = (late_count > 0) & (early_count > 0) & (early_sum != 0)
    late_mean = late_sum / jnp.maximum(late_count, 1)
    early_mean = early_sum / jnp.maximum(early_count, 1)
    return jnp.where(defined, late_mean, 1.0) / jnp.where(defined, early_mean, 1.0)


def _weights(ratio: Float[Array, "t"], temperature: float, *, warm: Bool[Array, ""]) -> Float[Array, "t"]:
    """K softmax(r / T); 1 until the history is long enough."""
    exponents = jnp.clip(ratio / temperature, -LARGEST_EXPONENT, LARGEST_EXPONENT)
    return jnp.where(warm, ratio.shape[0] * jax.nn.softmax(exponents), 1.0)
