"""Unconflicting projection of gradients."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import weighted
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.solvers import project_to_dual_cone, unit_size
from mtan_jax.weighting.stack import Stack


@declare("gradient_method")
def upgrad(
    tasks: Sequence[str],
    *,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    r"""UPGrad (Quinton and Rey, "Jacobian descent for multi-objective optimization", 2024).

    Equation: each task's gradient is projected onto the dual cone of all gradients, the set of vectors that conflict
    with none, and the projections are averaged (definition 3). So the update conflicts with no task, and is linear
    under scaling of the tasks. TorchJD adds 1e-4 to the diagonal of the Gram matrix; `solvers.project_to_dual_cone`
    solves the original problem.

    Args:
        tasks: task names.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together", "one_by_one" or "gram"; see `mtan_jax.weighting.gradients.weighted`.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import upgrad
        >>> tx = optax.chain(upgrad(("semantic", "depth")), optax.adam(1e-4))
    """

    def weigh(stack: Stack, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        return upgrad_weights(stack.gram, stack.present), state

    return weighted("upgrad", tasks, optax.EmptyState, weigh, shared=shared, backward=backward)


def upgrad_weights(gram: Float[Array, "t t"], present: Bool[Array, "t"]) -> Float[Array, "t"]:
    """The weights of the mean of the projections of all present tasks' gradients, from their Gram matrix."""
    gram = unit_size(gram)
    rows = jnp.diag(present / jnp.maximum(present.sum(), 1)).astype(gram.dtype)
    return jax.vmap(project_to_dual_cone, (0, None, None))(rows, gram, present).sum(0)
