"""Homoscedastic uncertainty weighting."""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.balancers.learned_scale import learned_scale
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.option_checks import check_choice, check_number

_INITIAL_LOG_VARIANCE = {"mtan": -0.5, "nash": 0.0}
_NASH_LEARNING_RATE = 0.025


@declare("balancer")
def uncertainty(
    tasks: Sequence[str],
    *,
    variant: Literal["mtan", "nash"] = "mtan",
    learning_rate: float | optax.Schedule | None = None,
    log_variance_rate: float | optax.Schedule | None = None,
    initial_log_variance: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Uncertainty weighting with a learned log-variance s_i per task (Kendall, Gal, Cipolla, CVPR 2018).

    Equation: the total loss is sum_i L_i / (2 exp s_i) + s_i / 2, where L_i includes the weights of the methods before
    this one. So w_i = 1 / (2 exp s_i), at the s before this step. s takes one Adam step along the gradient
    1/2 - L_i / (2 exp s_i). Two published codes differ in the initial s and its learning rate:

    - "mtan" (the code of MTAN): s starts at -0.5 and is learned at the network's rate.
    - "nash" (the code of Nash-MTL, ICML 2022, and of FAMO): s starts at 0 and is learned at 0.025. That code halves
      this rate together with the network's; to do so, pass a schedule as `log_variance_rate`.

    At the optimum s_i = log L_i a task's term is (1 + log L_i) / 2, so the total loss is negative for losses below
    1/e = 0.37. This is expected. The log holds the unweighted losses for this reason.

    An absent task keeps its s and its moments.

    Args:
        tasks: task names.
        variant: "mtan" or "nash".
        learning_rate: the network's, constant or a function of the step; used by "mtan".
        log_variance_rate: learning rate of s, if it differs from the variant's; constant or a function of the step.
        initial_log_variance: initial s, if it differs from the variant's.

    Raises:
        ValueError: an option is out of range, or "mtan" has no learning rate.

    Example:
        >>> from mtan_jax.weighting import uncertainty
        >>> tx = uncertainty(("semantic", "depth"), learning_rate=1e-4)
        >>> tx = uncertainty(("semantic", "depth"), variant="nash")
    """
    check_choice("uncertainty", "variant", variant, tuple(_INITIAL_LOG_VARIANCE))
    start = _INITIAL_LOG_VARIANCE[variant] if initial_log_variance is None else initial_log_variance
    start = check_number("uncertainty", "initial_log_variance", start)
    if log_variance_rate is None:
        log_variance_rate = _NASH_LEARNING_RATE if variant == "nash" else learning_rate
    if log_variance_rate is None:
        raise ValueError("uncertainty has no learning rate; variant 'mtan' needs learning_rate or log_variance_rate")

    def term(log_variance: Float[Array, ""], loss: Float[Array, ""]) -> Float[Array, ""]:
        return 0.5 * jnp.exp(-log_variance) * loss + 0.5 * log_variance

    return learned_scale("uncertainty", tasks, term, start=start, rate=log_variance_rate)
