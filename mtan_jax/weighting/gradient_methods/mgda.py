"""Multiple-gradient descent."""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import Wrt, weighted
from mtan_jax.weighting.numerics import nan_if_negative
from mtan_jax.weighting.option_checks import check_choice
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.solvers import min_norm
from mtan_jax.weighting.stack import Stack


@declare("gradient_method")
def mgda(
    tasks: Sequence[str],
    *,
    normalize: Literal["none", "l2", "loss", "loss+"] = "none",
    shared: Shared = "auto",
    backward: Backward = "together",
    wrt: Wrt = "parameters",
) -> optax.GradientTransformationExtraArgs:
    r"""Multiple-gradient descent (MGDA): the shortest convex combination of the task gradients.

    Equation: w = argmin |sum_i w_i g_i|^2 subject to w >= 0, sum_i w_i = 1 (Desideri 2012; Sener and Koltun, NeurIPS
    2018, equation 3). The update conflicts with no task. Published codes use the Frank-Wolfe method to a tolerance of
    1e-3, `solvers.min_norm` an interior-point method. In float32, the relative error of the update is below 1e-5 for
    gradients of equal norm, but about 1e-4, 1e-3 and 1e-2 if one norm is 1e-2, 1e-3 or 1e-4 of another. A task whose
    gradient is 0 gets the weight 1 and the update is 0, because such a point is Pareto stationary.

    As in the authors' code, gradients may be normalized before w is computed. Here w applies to the normalized
    gradients. (In the authors' code, and in LibMTL's with respect to features, it applies to the original ones.) The
    divisors are

    - "none": 1;
    - "l2": the gradient's norm;
    - "loss": the loss;
    - "loss+": the product of both.

    Args:
        tasks: task names.
        normalize: the divisor of the gradients.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together", "one_by_one" or "gram"; see `mtan_jax.weighting.gradients.weighted`.
        wrt: "parameters", or "features": one full backward pass (MGDA-UB, Sener and Koltun, equation 5). As in their
            code, inner products are over all rows of the batch; LibMTL's `rep_grad` sums over the rows first.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import mgda
        >>> tx = optax.chain(mgda(("semantic", "depth")), optax.adam(1e-4))
    """
    check_choice("mgda", "normalize", normalize, ("none", "l2", "loss", "loss+"))

    def weigh(stack: Stack, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        gram = stack.gram
        divisor = jnp.ones_like(stack.losses)
        if normalize in ("l2", "loss+"):
            divisor = divisor * jnp.sqrt(jnp.diag(gram))
        if normalize in ("loss", "loss+"):
            divisor = divisor * stack.losses
        divisor = jnp.where(divisor > 0, divisor, 1)
        weights = min_norm(gram / divisor[:, None] / divisor[None], stack.present) / divisor
        if normalize in ("loss", "loss+"):
            weights = nan_if_negative(weights, stack.losses, stack.present)
        return weights, state

    return weighted("mgda", tasks, optax.EmptyState, weigh, shared=shared, backward=backward, wrt=wrt)
