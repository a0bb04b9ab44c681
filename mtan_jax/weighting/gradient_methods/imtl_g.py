"""Impartial gradients."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import Wrt, weighted
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.stack import Stack


@declare("gradient_method")
def imtl_g(
    tasks: Sequence[str],
    *,
    shared: Shared = "auto",
    backward: Backward = "together",
    wrt: Wrt = "parameters",
) -> optax.GradientTransformationExtraArgs:
    r"""Impartial gradients (IMTL-G; Liu, Li, Kuang et al., ICLR 2021).

    Equation: the combination, with weights that sum to 1, whose projections onto all task gradients are equal:
    <sum_j w_j g_j, g_i / |g_i|> is the same for all i (equation 6). Weights may be negative. If the gradients are
    linearly dependent, the weights are the solution of least norm. If no solution sums to 1, all weights are 0.

    Args:
        tasks: task names.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together", "one_by_one" or "gram"; see `mtan_jax.weighting.gradients.weighted`.
        wrt: "parameters" (LibMTL, TorchJD), or "features": one full backward pass (the paper).

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import imtl_g
        >>> tx = optax.chain(imtl_g(("semantic", "depth")), optax.adam(1e-4))
    """

    def weigh(stack: Stack, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        gram = stack.gram
        lengths = jnp.sqrt(jnp.diag(gram))
        active = stack.present & (lengths > 0)
        lengths = jnp.where(active, lengths, 1)
        cosines = jnp.where(active[:, None] & active[None], gram / lengths[:, None] / lengths[None], 0)
        smallest = 1 / lengths.max()  # keeps the weights near 1
        w = jnp.linalg.pinv(cosines, rtol=1e-6, hermitian=True) @ active.astype(gram.dtype) / lengths / smallest
        total = w.sum()
        return jnp.where(jnp.abs(total) > 1e-12, w / jnp.where(total == 0, 1, total), 0), state

    return weighted("imtl_g", tasks, optax.EmptyState, weigh, shared=shared, backward=backward, wrt=wrt)
