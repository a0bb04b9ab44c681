"""Impartial loss balancing."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.balancers.learned_scale import learned_scale
from mtan_jax.weighting.declaration import declare


@declare("balancer")
def imtl_l(
    tasks: Sequence[str],
    *,
    learning_rate: float | optax.Schedule | None = None,
    scale_rate: float | optax.Schedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Impartial loss balancing (IMTL-L; Liu, Li, Kuang et al., ICLR 2021): drives every weighted loss to 1.

    Equation: the total loss is sum_i exp(s_i) L_i - s_i (equation 10, with the base e that the paper uses). So
    w_i = exp(s_i). s starts at 0 and takes one Adam step along the gradient exp(s_i) L_i - 1. Apart from the sign of s
    and a factor of 2 this is `uncertainty`. Followed by `imtl_g`, as in "imtl_l+imtl_g", it is the paper's IMTL.

    Args:
        tasks: task names.
        learning_rate: the network's learning rate, constant or a function of the step.
        scale_rate: learning rate of s; None: the network's.

    Raises:
        ValueError: no rate, or an option is out of range.

    Example:
        >>> from mtan_jax.weighting import imtl_l
        >>> tx = imtl_l(("semantic", "depth"), learning_rate=1e-4)
    """
    rate = learning_rate if scale_rate is None else scale_rate
    if rate is None:
        raise ValueError("imtl_l has no learning rate; pass learning_rate or scale_rate")

    def term(scale: Float[Array, ""], loss: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.exp(scale) * loss - scale

    return learned_scale("imtl_l", tasks, term, start=0.0, rate=rate)
