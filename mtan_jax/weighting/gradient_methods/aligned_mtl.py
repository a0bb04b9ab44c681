"""Aligned-MTL."""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import Wrt, weighted
from mtan_jax.weighting.option_checks import check_choice
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.solvers import unit_size
from mtan_jax.weighting.stack import Stack


@declare("gradient_method")
def aligned_mtl(
    tasks: Sequence[str],
    *,
    scale: Literal["min", "median", "rmse"] = "min",
    shared: Shared = "auto",
    backward: Backward = "together",
    wrt: Wrt = "parameters",
) -> optax.GradientTransformationExtraArgs:
    r"""Aligned-MTL (Senushkin, Patakin, Kuznetsov, Konushin, CVPR 2023).

    Equation: with the eigenvalues s_k and eigenvectors V of the Gram matrix, w = s^(1/2) V diag(s_k)^(-1/2) V' 1
    (algorithm 1). This replaces the gradients by the nearest set of orthogonal vectors of equal length s^(1/2), and
    sums these. In the paper s is the smallest nonzero eigenvalue ("min"). The authors' code also has the median and the
    mean ("rmse").

    Args:
        tasks: task names.
        scale: the choice of s: "min", "median" or "rmse".
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together", "one_by_one" or "gram"; see `mtan_jax.weighting.gradients.weighted`.
        wrt: "parameters", or "features": one full backward pass (the paper's Aligned-MTL-UB).

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import aligned_mtl
        >>> tx = optax.chain(aligned_mtl(("semantic", "depth")), optax.adam(1e-4))
    """
    check_choice("aligned_mtl", "scale", scale, ("min", "median", "rmse"))

    def weigh(stack: Stack, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        gram = unit_size(stack.gram)
        values, vectors = jnp.linalg.eigh(gram)
        counted = values > values.max() * len(values) * jnp.finfo(values.dtype).eps
        safe = jnp.where(counted, values, 1)
        rank = jnp.maximum(counted.sum(), 1)
        if scale == "min":
            s = jnp.where(counted, values, jnp.inf).min()
        elif scale == "median":  # the lower of two, as in PyTorch
            s = jnp.sort(jnp.where(counted, values, jnp.inf))[(rank - 1) // 2]
        else:
            s = jnp.where(counted, values, 0).sum() / rank
        s = jnp.where(jnp.isfinite(s), s, 0)
        return (vectors * jnp.where(counted, jnp.sqrt(s / safe), 0)[None]) @ vectors.sum(0), state

    return weighted("aligned_mtl", tasks, optax.EmptyState, weigh, shared=shared, backward=backward, wrt=wrt)
