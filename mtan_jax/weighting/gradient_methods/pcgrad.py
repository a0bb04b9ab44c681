"""Projecting conflicting gradients."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import weighted
from mtan_jax.weighting.option_checks import check_count
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.stack import Stack


class PCGradState(NamedTuple):
    """State of `pcgrad`.

    Attributes:
        steps: steps so far; this number and the seed determine the random order.
    """

    steps: Int32[Array, ""]


@declare("gradient_method")
def pcgrad(
    tasks: Sequence[str],
    *,
    seed: int = 0,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """Projecting conflicting gradients (PCGrad; Yu, Kumar, Gupta, Levine, Hausman, Finn, NeurIPS 2020, algorithm 1).

    Equation: each task's gradient g visits the other tasks in random order. If it conflicts with g_j, <g, g_j> < 0, its
    component along g_j is removed: g <- g - <g, g_j> / |g_j|^2 g_j. g is the gradient after the previous projections,
    g_j the original one. The results are summed.

    Args:
        tasks: task names.
        seed: seed of the random order, at least 0.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together", "one_by_one" or "gram"; see `mtan_jax.weighting.gradients.weighted`.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import pcgrad
        >>> tx = optax.chain(pcgrad(("semantic", "depth")), optax.adam(1e-4))
    """
    seed = check_count("pcgrad", "seed", seed, least=0)

    def init() -> PCGradState:
        return PCGradState(jnp.zeros((), jnp.int32))

    def weigh(stack: Stack, state: PCGradState) -> tuple[Float[Array, "t"], PCGradState]:
        order = random_orders(seed, state.steps, len(stack.losses))
        weights = project_conflicts(stack.gram, stack.present, order).sum(0)
        return weights, PCGradState(optax.safe_increment(state.steps))

    return weighted("pcgrad", tasks, init, weigh, shared=shared, backward=backward)


def random_orders(seed: int, steps: Int32[Array, ""], tasks: int) -> Int32[Array, "t t"]:
    """A random order of all tasks per task, determined by seed and step."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), steps), tasks)
    return jax.vmap(lambda key: jax.random.permutation(key, tasks))(keys)


def project_conflicts(
    gram: Float[Array, "t t"], present: Bool[Array, "t"], order: Int32[Array, "t t"]
) -> Float[Array, "t t"]:
    """The coefficients of each projected gradient.

    Args:
        gram: G_ij = <g_i, g_j>.
        present: tasks that take part.
        order: row i is the order in which task i visits the tasks; it skips itself.

    Returns:
        C, where sum_j C_ij g_j is the projected gradient of task i.
    """
    rows = jnp.arange(len(gram))
    squares = jnp.diag(gram)

    def visit(k: Array, coefficients: Float[Array, "t t"]) -> Float[Array, "t t"]:
        j = order[:, k]
        product = (coefficients * gram[j]).sum(1)
        conflicts = (product < 0) & (j != rows) & (squares[j] > 0) & present[j]
        share = jnp.where(conflicts, product / jnp.where(conflicts, squares[j], 1), 0)
        return coefficients.at[rows, j].add(-share)

    return lax.fori_loop(0, len(gram), visit, jnp.eye(len(gram), dtype=gram.dtype))
