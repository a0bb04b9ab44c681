"""Gradient normalization."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import weighted
from mtan_jax.weighting.numerics import SMALLEST_LOSS, nan_if_negative, update_where
from mtan_jax.weighting.option_checks import check_choice, check_count, check_number, check_tasks
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.stack import Stack

_PAPER_RATE = 0.025


class GradNormState(NamedTuple):
    """State of `gradnorm`.

    Attributes:
        steps: steps so far.
        first_loss: sums of the first losses, the unit of later ones.
        first_count: number of steps in these sums.
        learned: the weights ("paper") or their logits ("libmtl").
        adam: Adam's moments of `learned`.
    """

    steps: Int32[Array, ""]
    first_loss: Float[Array, "t"]
    first_count: Float[Array, "t"]
    learned: Float[Array, "t"]
    adam: optax.ScaleByAdamState


@declare("gradient_method")
def gradnorm(
    tasks: Sequence[str],
    *,
    alpha: float = 1.5,
    variant: Literal["paper", "libmtl"] = "paper",
    learning_rate: float | optax.Schedule | None = None,
    weight_rate: float | optax.Schedule | None = None,
    steps_per_epoch: int | None = None,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """Gradient normalization (GradNorm; Chen, Badrinarayanan, Lee, Rabinovich, ICML 2018).

    Equation: let G_i = |w_i g_i|, and r_i the loss relative to its initial value, divided by the mean of these ratios
    over the tasks. w takes one Adam step along the derivative of sum_i |G_i - mean(G) r_i^alpha|, where
    mean(G) r_i^alpha is constant (equations 1 and 2, algorithm 1). Tasks that learn slowly get larger gradients. The
    authors published no code. Variants:

    - "paper": w starts at 1, is learned at a rate of 0.025 and is renormalized to a sum of K after each step. The
      initial loss is that of the first step. The gradient of a step uses the w before that step. w stays above 1e-3.
    - "libmtl": w = K softmax(v). v starts at 1 and is learned at the network's rate. The initial loss is the mean over
      the first epoch, during which w = 1.

    All parameters are trained on sum_i w_i L_i. The paper uses the g_i of the last shared layer only, which a function
    as `shared` can select; a step costs the same either way. An absent task keeps its weight.

    Args:
        tasks: task names.
        alpha: strength of the pull towards equal training rates; the paper tries 0.12 to 1.5.
        variant: "paper" or "libmtl".
        learning_rate: the network's, constant or a function of the step; used by "libmtl".
        weight_rate: learning rate of w or v, if it differs from the variant's.
        steps_per_epoch: length of an epoch in steps; required for "libmtl".
        shared: the parameters whose gradient norms are compared; see `mtan_jax.weighting.gradients.combined`.
        backward: "together", "one_by_one" or "gram"; see `mtan_jax.weighting.gradients.weighted`.

    Raises:
        ValueError: an option is out of range, or one that the variant requires is missing.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import gradnorm
        >>> tx = optax.chain(gradnorm(("semantic", "depth")), optax.adam(1e-4))
    """
    tasks = check_tasks(tasks)
    alpha = check_number("gradnorm", "alpha", alpha, least=0)
    check_choice("gradnorm", "variant", variant, ("paper", "libmtl"))
    rate = _rate(variant, learning_rate, weight_rate)
    first_steps = 1
    if variant == "libmtl":
        first_steps = check_count("gradnorm", "steps_per_epoch", steps_per_epoch, least=1)
    adam = optax.scale_by_adam()

    def init() -> GradNormState:
        ones = jnp.ones(len(tasks), jnp.float32)
        return GradNormState(jnp.zeros((), jnp.int32), 0 * ones, 0 * ones, ones, jax.vmap(adam.init)(ones))

    def weights_of(learned: Float[Array, "t"]) -> Float[Array, "t"]:
        return learned if variant == "paper" else len(tasks) * jax.nn.softmax(learned)

    def weigh(stack: Stack, state: GradNormState) -> tuple[Float[Array, "t"], GradNormState]:
        present = stack.present
        losses = jnp.maximum(stack.losses.astype(jnp.float32), SMALLEST_LOSS)
        lengths = jnp.sqrt(jnp.diag(stack.gram)).astype(jnp.float32)
        # A task that is first present at a later step uses that loss as its initial one.
        first = present & jnp.where(state.first_count == 0, True, state.steps < first_steps)
        first_loss, first_count = state.first_loss + jnp.where(first, losses, 0), state.first_count + first
        rates = _training_rates(losses, present, first_loss, first_count)
        present_count = jnp.maximum(present.sum(), 1)

        def distance(learned: Float[Array, "t"]) -> Float[Array, ""]:
            sizes = weights_of(learned) * lengths
            goals = (sizes * present).sum() / present_count * rates**alpha
            return (jnp.abs(sizes - jax.lax.stop_gradient(goals)) * present).sum()

        direction, new_adam = jax.vmap(adam.update)(jax.grad(distance)(state.learned), state.adam)
        step_size = jnp.asarray(rate(state.steps) if callable(rate) else rate, jnp.float32)
        moved = state.learned - step_size * direction
        if variant == "paper":
            moved = jnp.maximum(moved, 1e-3)
            held = (state.learned * present).sum()  # the present tasks keep the sum of their weights
            moved = moved * held / jnp.maximum((moved * present).sum(), 1e-3)
        learns = present & (variant == "paper" or state.steps >= first_steps)
        learned, new_adam = update_where(learns, (moved, new_adam), (state.learned, state.adam))
        weights = jnp.where(state.steps < first_steps, 1.0, weights_of(state.learned))
        new = GradNormState(optax.safe_increment(state.steps), first_loss, first_count, learned, new_adam)
        return nan_if_negative(weights, stack.losses, present), new

    return weighted(
        "gradnorm",
        tasks,
        init,
        weigh,
        shared=shared,
        backward=backward,
        task_specific="weighted",
    )


def _rate(
    variant: Literal["paper", "libmtl"],
    learning_rate: float | optax.Schedule | None,
    weight_rate: float | optax.Schedule | None,
) -> float | optax.Schedule:
    """The learning rate of the weights."""
    rate = weight_rate
    if rate is None:
        rate = _PAPER_RATE if variant == "paper" else learning_rate
    if rate is None:
        raise ValueError("gradnorm has no learning rate; variant 'libmtl' needs learning_rate or weight_rate")
    if not callable(rate):
        rate = check_number("gradnorm", "weight_rate", rate, least=0)
    return rate


def _training_rates(
    losses: Float[Array, "t"], present: Bool[Array, "t"], first_loss: Float[Array, "t"], first_count: Float[Array, "t"]
) -> Float[Array, "t"]:
    """The r_i of the equation, from the sum and the number of the first losses; 0 for absent tasks."""
    first = jnp.where(first_loss > 0, first_loss, 1)
    relative = jnp.where(present, losses * jnp.maximum(first_count, 1) / first, 0)
    mean = relative.sum() / jnp.maximum(present.sum(), 1)
    return relative / jnp.where(mean > 0, mean, 1)
