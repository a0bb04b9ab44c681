"""Dual balancing."""

from collections.abc import Sequence
from typing import NamedTuple

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

_SMALLEST = 1e-8


class DBMTLState(NamedTuple):
    """State of `db_mtl`.

    Attributes:
        steps: steps so far.
        means: running means of the gradients per task, one array [t, ...] per shared parameter, in float32 or wider.
    """

    steps: Int32[Array, ""]
    means: tuple[Float[Array, "t ..."], ...]


@declare("gradient_method")
def db_mtl(
    tasks: Sequence[str],
    *,
    beta: float = 0.9,
    beta_decay: float = 0.0,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """Dual balancing (DB-MTL; Lin, Jiang, Ye, Zhang, Chen, Chen, Liu, Kwok, 2023) of losses and gradient norms.

    Equation: each task's loss is log(L_i + 1e-8), with gradient g_i. A running mean m_i <- b_t m_i + (1 - b_t) g_i is
    kept, with b_t = beta / t^beta_decay at step t = 1, 2, ... The update is sum_i (max_j |m_j| / |m_i|) m_i
    (algorithm 1). All other parameters get the gradient of the sum of the logarithms.

    An absent task keeps its mean and does not contribute to the update.

    Args:
        tasks: task names.
        beta: weight of the old mean; 0: no mean. The paper tunes it and its decay; the defaults are LibMTL's.
        beta_decay: exponent of the decay of beta.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together" or "one_by_one"; see `mtan_jax.weighting.gradients.combined`.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import db_mtl
        >>> tx = optax.chain(db_mtl(("semantic", "depth")), optax.adam(1e-4))
    """
    tasks = check_tasks(tasks)
    beta = check_number("db_mtl", "beta", beta, least=0, most=1)
    beta_decay = check_number("db_mtl", "beta_decay", beta_decay, least=0)

    def init(leaves: tuple[Array, ...]) -> DBMTLState:
        return DBMTLState(jnp.zeros((), jnp.int32), zeros_per_task(leaves, len(tasks)))

    def combine(stack: Stack, state: DBMTLState) -> Combined:
        present, steps = stack.present, optax.safe_increment(state.steps)
        losses = lax.stop_gradient(stack.losses.astype(jnp.promote_types(stack.losses.dtype, jnp.float32)))
        of_logarithm = jnp.where(present, 1 / (jnp.maximum(losses, 0) + _SMALLEST), 0)
        share = jnp.where(present, beta / steps.astype(jnp.float32) ** beta_decay, 1)

        def track(old: Float[Array, "t ..."], new: Float[Array, "t ..."]) -> Float[Array, "t ..."]:
            per_task = (len(new),) + (1,) * (new.ndim - 1)
            new = of_logarithm.reshape(per_task) * new
            return (new + share.reshape(per_task) * (old - new)).astype(old.dtype)

        means = tuple(track(old, new) for old, new in zip(state.means, stack.leaves, strict=True))
        lengths = jnp.where(present, jnp.sqrt(jnp.diag(lax.stop_gradient(gram_of(means)))), 0)
        weights = jnp.where(present, lengths.max() / (lengths + _SMALLEST), 0)
        weights = nan_if_negative(weights, losses, present)
        leaves = tuple(weighted_sum(weights, leaf) for leaf in means)
        return Combined(leaves, weights * of_logarithm, of_logarithm, DBMTLState(steps, means))

    return combined("db_mtl", tasks, init, combine, shared=shared, backward=backward)
