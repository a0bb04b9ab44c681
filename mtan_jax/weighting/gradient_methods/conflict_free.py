"""Conflict-free gradients."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import weighted
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.stack import Stack


@declare("gradient_method")
def conflict_free(
    tasks: Sequence[str],
    *,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """Conflict-free gradients (ConFIG; Liu, Chu, Thuerey, ICLR 2025).

    Equation: the update (sum_i <g_i, u>) u, where u is the direction of U^+ 1 and the rows of U are the unit gradients
    (equations 2 and 3). It has the same positive cosine with all task gradients, and its length is the sum of their
    projections on it. If the gradients are linearly dependent, such a direction may not exist, and u is the
    least-squares solution.

    Args:
        tasks: task names.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together", "one_by_one" or "gram"; see `mtan_jax.weighting.gradients.weighted`.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import conflict_free
        >>> tx = optax.chain(conflict_free(("semantic", "depth")), optax.adam(1e-4))
    """

    def weigh(stack: Stack, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        lengths = jnp.sqrt(jnp.diag(stack.gram))
        active = stack.present & (lengths > 0)
        lengths = jnp.where(active, lengths, 1)
        cosines = jnp.where(active[:, None] & active[None], stack.gram / lengths[:, None] / lengths[None], 0)
        coefficients = jnp.linalg.pinv(cosines, rtol=1e-6, hermitian=True) @ active.astype(cosines.dtype)
        along = cosines @ coefficients  # with each unit gradient; all equal if these are linearly independent
        square = coefficients @ along
        projections = jnp.where(active, lengths * along, 0).sum()
        divisor = jnp.where(square > 1e-12, square, jnp.inf)
        return jnp.where(active, coefficients / lengths, 0) * projections / divisor, state

    return weighted("conflict_free", tasks, optax.EmptyState, weigh, shared=shared, backward=backward)
