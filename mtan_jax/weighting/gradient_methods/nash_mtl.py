"""Nash-MTL."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import weighted
from mtan_jax.weighting.option_checks import check_count, check_number, check_tasks
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.solvers import fair_weights
from mtan_jax.weighting.stack import Stack


class NashMTLState(NamedTuple):
    """State of `nash_mtl`.

    Attributes:
        steps: steps so far.
        weights: the last solution; 1 before the first.
        solved: tasks that were present at the last solution.
    """

    steps: Int32[Array, ""]
    weights: Float[Array, "t"]
    solved: Bool[Array, "t"]


@declare("gradient_method")
def nash_mtl(
    tasks: Sequence[str],
    *,
    update_every: int = 1,
    max_norm: float | None = 1.0,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """Nash-MTL (Navon, Shamsian, Achituve et al., ICML 2022): the update is the Nash bargaining solution of the tasks.

    Equation: G w = 1 / w, elementwise, with the Gram matrix G (algorithm 1). The update conflicts with no task. The
    authors approximate w by a sequence of convex problems (cvxpy and ECOS, at most 20, to 1e-3). w also minimizes a
    single convex function, which `solvers.fair_weights` does by Newton's method. As in their code, all parameters,
    including the heads, are trained on sum_i w_i L_i, and the gradient of the shared parameters is clipped.

    An absent task keeps its w. A step solves ahead of time if a task is present that was absent at the last solution.

    Args:
        tasks: task names.
        update_every: steps between solutions; the steps in between use the last one.
        max_norm: norm to which the gradient of the shared parameters is clipped; None: no clipping.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together", "one_by_one" or "gram"; see `mtan_jax.weighting.gradients.weighted`.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import nash_mtl
        >>> tx = optax.chain(nash_mtl(("semantic", "depth")), optax.adam(1e-4))
    """
    tasks = check_tasks(tasks)
    update_every = check_count("nash_mtl", "update_every", update_every, least=1)
    if max_norm is not None:
        max_norm = check_number("nash_mtl", "max_norm", max_norm, above=0)

    def init() -> NashMTLState:
        count = len(tasks)
        return NashMTLState(jnp.zeros((), jnp.int32), jnp.ones(count, jnp.float32), jnp.zeros(count, bool))

    def weigh(stack: Stack, state: NashMTLState) -> tuple[Float[Array, "t"], NashMTLState]:
        def solve() -> Float[Array, "t"]:
            return fair_weights(stack.gram, present, 1.0).astype(jnp.float32)

        present = stack.present
        solves = (state.steps % update_every == 0) | (present & ~state.solved).any()
        weights = jnp.where(present, lax.cond(solves, solve, lambda: state.weights), state.weights)
        solved = jnp.where(solves, present, state.solved)
        new = NashMTLState(optax.safe_increment(state.steps), weights, solved)
        return jnp.where(present, weights, 0), new

    return weighted(
        "nash_mtl", tasks, init, weigh, shared=shared, backward=backward, task_specific="weighted", max_norm=max_norm
    )
