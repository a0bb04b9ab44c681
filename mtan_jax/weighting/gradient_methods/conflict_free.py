"""Conflict-free gradients."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import Backward, Shared, Stack, weighted


@declare("gradient_method")
def conflict_free(
    tasks: Sequence[str],
    *,
    shared: Shared = "all_but_heads",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """Conflict-free gradients (ConFIG; Liu, Chu, Thuerey, ICLR 2025).

    Equation: the update has the same cosine, above 0, with all task gradients, and the length of the sum of their
    projections on it: (sum_i <g_i, u>) u, u the direction of U^+ 1 with the unit gradients as the rows of U
    (equations 2 and 3). Where gradients are linearly dependent such a direction may not exist; then the nearest is
    taken, in the sense of least squares.

    Args:
        tasks: names, in the order of the losses.
        shared: which parameters the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together" or "one_by_one"; see there.

    Raises:
        ValueError: an option is out of its range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import conflict_free
        >>> tx = optax.chain(conflict_free(("semantic", "depth")), optax.adam(1e-4))
    """

    def weigh(stack: Stack, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        lengths = jnp.sqrt(jnp.diag(stack.gram))
        there = stack.present & (lengths > 0)
        lengths = jnp.where(there, lengths, 1)
        cosines = jnp.where(there[:, None] & there[None], stack.gram / lengths[:, None] / lengths[None], 0)
        made_of = jnp.linalg.pinv(cosines, rtol=1e-6, hermitian=True) @ there.astype(cosines.dtype)
        along = cosines @ made_of  # of each unit gradient; all the same where none depends on others
        square = made_of @ along
        projections = jnp.where(there, lengths * along, 0).sum()
        return jnp.where(there, made_of / lengths, 0) * projections / jnp.where(square > 1e-12, square, jnp.inf), state

    return weighted("conflict_free", tasks, optax.EmptyState, weigh, shared=shared, backward=backward)
