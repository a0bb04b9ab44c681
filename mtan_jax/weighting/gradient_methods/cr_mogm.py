"""Correlation-reduced multi-objective gradient manipulation."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradient_methods.upgrad import upgrad_weights
from mtan_jax.weighting.gradients import weighted
from mtan_jax.weighting.option_checks import check_choice, check_number, check_tasks
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.solvers import min_norm
from mtan_jax.weighting.stack import Stack

_WEIGHTS: dict[str, Callable[[Float[Array, "t t"], Bool[Array, "t"]], Float[Array, "t"]]] = {
    "mgda": min_norm,
    "upgrad": upgrad_weights,
}


class CRMOGMState(NamedTuple):
    """State of `cr_mogm`.

    Attributes:
        steps: steps so far, for a schedule of alpha.
        weights: averaged weights per task.
        is_started: tasks that were present at some step; the first weight of a task starts its average.
    """

    steps: Int32[Array, ""]
    weights: Float[Array, "t"]
    is_started: Bool[Array, "t"]


@declare("gradient_method")
def cr_mogm(
    tasks: Sequence[str],
    *,
    method: Literal["mgda", "upgrad"] = "mgda",
    alpha: float | optax.Schedule = 0.9,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """Correlation-reduced gradient manipulation (CR-MOGM; Zhou, Zhang, Jiang, Zhong, Gu, Zhu, NeurIPS 2022).

    Equation: w_t = alpha w_{t-1} + (1 - alpha) v_t, where v_t are the weights that another method computes from the
    gradients of step t. The update is sum_i w_{t,i} g_i. Weights computed from the stochastic gradients that they
    multiply bias the update; the average reduces this correlation. As in TorchJD, w_1 = v_1.

    The paper applies the average to any method, TorchJD to any weighting object. Here `method` names a method of this
    library whose weights depend on the Gram matrix only. With the weights of MGDA, w stays on the simplex. An absent
    task keeps its average, so over the present tasks w need not sum to 1.

    Args:
        tasks: task names.
        method: what computes v: "mgda" (the shortest convex combination of the gradients) or "upgrad".
        alpha: share of the old weights, from 0 to 1, constant or a function of the step. 0.9 is TorchJD's default. The
            paper (corollary 1) recommends 1 - r_t / r_1 for learning rates r_t that fall to 0.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together", "one_by_one" or "gram"; see `mtan_jax.weighting.gradients.weighted`.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import cr_mogm
        >>> rate = optax.cosine_decay_schedule(1e-4, 10_000)
        >>> tx = optax.chain(cr_mogm(("semantic", "depth"), alpha=lambda step: 1 - rate(step) / 1e-4), optax.adam(rate))
    """
    tasks = check_tasks(tasks)
    check_choice("cr_mogm", "method", method, tuple(_WEIGHTS))
    if not callable(alpha):
        alpha = check_number("cr_mogm", "alpha", alpha, least=0, most=1)

    def init() -> CRMOGMState:
        count = len(tasks)
        return CRMOGMState(jnp.zeros((), jnp.int32), jnp.ones(count, jnp.float32), jnp.zeros(count, bool))

    def weigh(stack: Stack, state: CRMOGMState) -> tuple[Float[Array, "t"], CRMOGMState]:
        current = _WEIGHTS[method](stack.gram, stack.present)
        share = alpha(state.steps) if callable(alpha) else alpha
        averaged = jnp.where(state.is_started, share * state.weights + (1 - share) * current, current)
        kept = jnp.where(stack.present, averaged, state.weights).astype(jnp.float32)
        new = CRMOGMState(optax.safe_increment(state.steps), kept, state.is_started | stack.present)
        return jnp.where(stack.present, averaged, 0), new

    return weighted("cr_mogm", tasks, init, weigh, shared=shared, backward=backward)
