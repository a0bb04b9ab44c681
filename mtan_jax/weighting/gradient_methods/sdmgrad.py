"""Direction-oriented multi-objective descent."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import weighted
from mtan_jax.weighting.option_checks import check_count, check_number, check_tasks
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.solvers import project_to_simplex
from mtan_jax.weighting.stack import Stack

_MOMENTUM = 0.5
_SMALLEST_SQUARE = 1e-8


class SDMGradState(NamedTuple):
    """State of `sdmgrad`.

    Attributes:
        weights: w, from which the next search starts.
    """

    weights: Float[Array, "t"]


@declare("gradient_method")
def sdmgrad(
    tasks: Sequence[str],
    *,
    pull: float = 0.3,
    rate: float = 10.0,
    iterations: int = 20,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """Direction-oriented multi-objective descent (SDMGrad; Xiao, Ban, Ji, NeurIPS 2023).

    Equation: the update is (g_w + p g_0) / (1 + p), with the mean gradient g_0 and the pull p towards it. w comes from
    a fixed number of steps of projected gradient descent, with momentum 0.5, on |g_w + p g_0|^2 / 2 over the simplex,
    starting from the last step's w (algorithm 2). As in the authors' code, gradients are first divided by their mean
    norm (its square plus 1e-8), and the rate is so large that the search may not converge: with many tasks, rounding
    alone can change the result.

    The paper computes the two factors of the inner products and the update on three different batches. Here all use the
    same batch, as in the paper's deterministic variant.

    An absent task keeps its w. The others start from the projection of their w onto their simplex.

    Args:
        tasks: task names.
        pull: p, the paper's lambda; 0 gives MGDA's direction, a large one that of the mean.
        rate: step size of the search; 10 in the authors' code, 5 in LibMTL.
        iterations: number of steps of the search.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together", "one_by_one" or "gram"; see `mtan_jax.weighting.gradients.weighted`.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import sdmgrad
        >>> tx = optax.chain(sdmgrad(("semantic", "depth")), optax.adam(1e-4))
    """
    tasks = check_tasks(tasks)
    pull = check_number("sdmgrad", "pull", pull, least=0)
    rate = check_number("sdmgrad", "rate", rate, above=0)
    iterations = check_count("sdmgrad", "iterations", iterations, least=1)
    count = len(tasks)

    def init() -> SDMGradState:
        return SDMGradState(jnp.full(count, 1 / count))

    def weigh(stack: Stack, state: SDMGradState) -> tuple[Float[Array, "t"], SDMGradState]:
        present, gram = stack.present, stack.gram
        present_count = jnp.maximum(present.sum(), 1)
        scale = (jnp.sqrt(jnp.diag(gram)) * present).sum() / present_count
        gram = gram / (scale**2 + _SMALLEST_SQUARE)
        towards = pull * present / present_count

        def search(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            w, velocity = carry
            velocity = _MOMENTUM * velocity + gram @ (w + towards)
            return project_to_simplex(w - rate * velocity, present), velocity

        start = project_to_simplex(state.weights.astype(gram.dtype), present)
        w, _ = lax.fori_loop(0, iterations, search, (start, jnp.zeros_like(start)))
        kept = jnp.where(present, w, state.weights).astype(state.weights.dtype)
        return (w + towards) / (1 + pull), SDMGradState(kept)

    return weighted("sdmgrad", tasks, init, weigh, shared=shared, backward=backward)
