"""Homoscedastic uncertainty weighting."""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.balancers.learned_scale import learned_scale
from mtan_jax.weighting.core import check_number
from mtan_jax.weighting.declaration import declare

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
    """Uncertainty weighting: a learned log-variance s_i a task (Kendall, Gal, Cipolla, CVPR 2018).

    Equation: the total loss is sum_i L_i / (2 exp s_i) + s_i / 2, in which L_i includes the weights of the methods
    before this one. So w_i = 1 / (2 exp s_i), with s as it was before this step, and s takes one step of Adam along
    1/2 - L_i / (2 exp s_i). Two published codes differ in where s starts and how fast it is learned:

    - "mtan" (the code of MTAN): s starts at -0.5 and is learned at the network's rate.
    - "nash" (the code of Nash-MTL, ICML 2022, and of FAMO): s starts at 0 and is learned at 0.025. That code halves
      this rate together with the network's; for that, give `log_variance_rate` as a schedule.

    At its optimum s_i = log L_i, the term of a task is (1 + log L_i) / 2: the total loss is negative as soon as the
    losses are small (below 1/e = 0.37). This is no error, and why the log has the unweighted losses.

    At a step where a task is absent its s and its moments stay as they are.

    Args:
        tasks: names, in the order of the losses.
        variant: "mtan" or "nash".
        learning_rate: of the network, constant or a schedule of the step; "mtan" uses it.
        log_variance_rate: rate that s is learned with in place of the variant's, constant or a schedule of the step.
        initial_log_variance: where s starts in place of the variant's.

    Raises:
        ValueError: an option is out of its range, or "mtan" has no rate.

    Example:
        >>> from mtan_jax.weighting import uncertainty
        >>> tx = uncertainty(("semantic", "depth"), learning_rate=1e-4)
        >>> tx = uncertainty(("semantic", "depth"), variant="nash")
    """
    if variant not in _INITIAL_LOG_VARIANCE:
        raise ValueError(f"uncertainty variant is {variant!r}: one of {sorted(_INITIAL_LOG_VARIANCE)} is needed")
    start = _INITIAL_LOG_VARIANCE[variant] if initial_log_variance is None else initial_log_variance
    check_number("uncertainty", "initial_log_variance", start)
    if log_variance_rate is None:
        log_variance_rate = _NASH_LEARNING_RATE if variant == "nash" else learning_rate
    if log_variance_rate is None:
        raise ValueError("uncertainty learning_rate is None: variant 'mtan' needs the network's learning rate")

    def term(log_variance: Float[Array, ""], loss: Float[Array, ""]) -> Float[Array, ""]:
        return 0.5 * jnp.exp(-log_variance) * loss + 0.5 * log_variance

    return learned_scale("uncertainty", tasks, term, start=start, rate=log_variance_rate)
