"""Multiple-gradient descent."""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import Backward, Shared, Stack, Wrt, weighted
from mtan_jax.weighting.solvers import min_norm

_NORMALIZE = ("none", "l2", "loss", "loss+")


@declare("gradient_method")
def mgda(
    tasks: Sequence[str],
    *,
    normalize: Literal["none", "l2", "loss", "loss+"] = "none",
    shared: Shared = "all_but_heads",
    backward: Backward = "together",
    wrt: Wrt = "parameters",
) -> optax.GradientTransformationExtraArgs:
    r"""Multiple-gradient descent (MGDA): the shortest convex combination of the task gradients.

    Equation: w = argmin |sum_i w_i g_i|^2 over w >= 0, sum_i w_i = 1 (Desideri 2012; Sener and Koltun, NeurIPS 2018,
    equation 3). The update conflicts with no task. Published codes find w by Frank and Wolfe's method to 1e-3; here it
    is solved exactly (`solvers.min_norm`). Of a task whose gradient is 0 the weight is 1 and the update 0: such a point
    is Pareto stationary.

    As in the authors' code gradients may be divided before w is found; w then weighs what was divided. (The authors'
    code, and LibMTL's with respect to features, weigh the gradients as they were.)

    - "none": as they are.
    - "l2": by their lengths.
    - "loss": by the losses.
    - "loss+": by both.

    Args:
        tasks: names, in the order of the losses.
        normalize: what gradients are divided by.
        shared: which parameters the method acts on; see `mtan_jax.weighting.gradients.weighted`.
        backward: "together" or "one_by_one"; see there.
        wrt: "parameters", or "features": one full backward pass (MGDA-UB, Sener and Koltun, equation 5). As in their
            code, gradients of all rows of the batch are compared, where LibMTL's `rep_grad` sums over the rows first.

    Raises:
        ValueError: an option is out of its range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import mgda
        >>> tx = optax.chain(mgda(("semantic", "depth")), optax.adam(1e-4))
    """
    if normalize not in _NORMALIZE:
        raise ValueError(f"mgda normalize is {normalize!r}: one of {', '.join(_NORMALIZE)} is needed")

    def weigh(stack: Stack, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        gram = stack.gram
        divisor = jnp.ones_like(stack.losses)
        if normalize in ("l2", "loss+"):
            divisor = divisor * jnp.sqrt(jnp.diag(gram))
        if normalize in ("loss", "loss+"):
            divisor = divisor * stack.losses
        divisor = jnp.where(divisor > 0, divisor, 1)
        return min_norm(gram / divisor[:, None] / divisor[None], stack.present) / divisor, state

    return weighted("mgda", tasks, optax.EmptyState, weigh, shared=shared, backward=backward, wrt=wrt)
