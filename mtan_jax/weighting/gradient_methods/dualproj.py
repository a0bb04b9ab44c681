"""DualProj."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import weighted
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.solvers import project_to_dual_cone, unit_size
from mtan_jax.weighting.stack import Stack


@declare("gradient_method")
def dualproj(
    tasks: Sequence[str],
    *,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    r"""DualProj: projects the mean gradient onto the cone of vectors that conflict with no task.

    Equation: argmin |v - g_0|^2 subject to <v, g_i> >= 0 for all i (Lopez-Paz and Ranzato, "Gradient Episodic Memory",
    NeurIPS 2017, equation 11). `solvers.project_to_dual_cone` solves it.

    Args:
        tasks: task names.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together", "one_by_one" or "gram"; see `mtan_jax.weighting.gradients.weighted`.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import dualproj
        >>> tx = optax.chain(dualproj(("semantic", "depth")), optax.adam(1e-4))
    """

    def weigh(stack: Stack, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        gram = unit_size(stack.gram)
        mean = (stack.present / jnp.maximum(stack.present.sum(), 1)).astype(gram.dtype)
        return project_to_dual_cone(mean, gram, stack.present), state

    return weighted("dualproj", tasks, optax.EmptyState, weigh, shared=shared, backward=backward)
