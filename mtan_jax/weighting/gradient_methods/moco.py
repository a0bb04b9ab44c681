"""Multi-objective gradient with correction."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int32

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import Combined, combined
from mtan_jax.weighting.numerics import nan_if_negative
from mtan_jax.weighting.option_checks import check_number, check_tasks
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.stack import Stack, gram_of, weighted_sum, zeros_per_task

_SMALLEST_LENGTH = 1e-8


class MoCoState(NamedTuple):
    """State of `moco`.

    Attributes:
        steps: steps so far.
        tracked: tracked gradients per task, one array [t, ...] per shared parameter, in float32 or wider.
        weights: weights of the last step.
    """

    steps: Int32[Array, ""]
    tracked: tuple[Float[Array, "t ..."], ...]
    weights: Float[Array, "t"]


@declare("gradient_method")
def moco(
    tasks: Sequence[str],
    *,
    beta: float = 0.5,
    beta_decay: float = 0.5,
    gamma: float = 0.1,
    gamma_decay: float = 0.5,
    rho: float = 0.0,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """Multi-objective gradient with correction (MoCo; Fernando, Shen, Liu et al., ICLR 2023).

    Equation: each task's gradient is tracked, y <- y - beta_t (y - g), and the update is sum_i w_i y_i. w takes one
    gradient step on |sum_i w_i y_i|^2 / 2 + rho |w|^2 / 2 per step: w <- softmax(w - gamma_t (Y Y' + rho I) w)
    (equations 7 and 9), with beta_t = beta / t^beta_decay and gamma_t = gamma / t^gamma_decay at step t = 1, 2, ...
    As in the authors' code, which LibMTL contains, each g is first rescaled to the norm L_i of its loss, and a softmax
    replaces the paper's projection onto the simplex.

    An absent task keeps its y and does not contribute to the update.

    Args:
        tasks: task names.
        beta: rate of the tracked gradients.
        beta_decay: exponent of the decay of beta.
        gamma: learning rate of the weights.
        gamma_decay: exponent of the decay of gamma.
        rho: regularization towards equal weights.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together" or "one_by_one"; see `mtan_jax.weighting.gradients.combined`.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import moco
        >>> tx = optax.chain(moco(("semantic", "depth")), optax.adam(1e-4))
    """
    tasks = check_tasks(tasks)
    beta = check_number("moco", "beta", beta, least=0)
    beta_decay = check_number("moco", "beta_decay", beta_decay, least=0)
    gamma = check_number("moco", "gamma", gamma, least=0)
    gamma_decay = check_number("moco", "gamma_decay", gamma_decay, least=0)
    rho = check_number("moco", "rho", rho, least=0)
    count = len(tasks)

    def init(leaves: tuple[Array, ...]) -> MoCoState:
        weights = jnp.full(count, 1 / count, jnp.float32)
        return MoCoState(jnp.zeros((), jnp.int32), zeros_per_task(leaves, count), weights)

    def combine(stack: Stack, state: MoCoState) -> Combined:
        present, steps = stack.present, optax.safe_increment(state.steps)
        t = steps.astype(jnp.float32)
        losses, gram = lax.stop_gradient((stack.losses, stack.gram))
        to_length = losses / (jnp.sqrt(jnp.diag(gram)) + _SMALLEST_LENGTH)
        share = jnp.where(present, beta / t**beta_decay, 0)

        def track(old: Float[Array, "t ..."], new: Float[Array, "t ..."]) -> Float[Array, "t ..."]:
            per_task = (len(new),) + (1,) * (new.ndim - 1)
            step = share.reshape(per_task).astype(old.dtype) * (old - to_length.reshape(per_task) * new)
            return (old - step).astype(old.dtype)

        tracked = tuple(track(old, new) for old, new in zip(state.tracked, stack.leaves, strict=True))
        held = jnp.where(present, state.weights, 0)
        held = held / jnp.where(present.any(), held.sum(), 1)
        slope = lax.stop_gradient(gram_of(tracked)) @ held + rho * held
        logits = jnp.where(present, held - gamma / t**gamma_decay * slope, -jnp.inf)
        shares = jax.nn.softmax(jnp.where(present.any(), logits, 0))
        weights = jnp.where(present, shares, 0)
        kept = jnp.where(present, weights, state.weights).astype(jnp.float32)
        weights = nan_if_negative(weights, stack.losses, present)
        leaves = tuple(weighted_sum(weights, leaf) for leaf in tracked)
        return Combined(leaves, weights, jnp.ones_like(weights), MoCoState(steps, tracked, kept))

    return combined("moco", tasks, init, combine, shared=shared, backward=backward)
