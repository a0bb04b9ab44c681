"""Gradient vaccine."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradient_methods.pcgrad import random_orders
from mtan_jax.weighting.gradients import weighted
from mtan_jax.weighting.option_checks import check_count, check_number, check_tasks
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.stack import Stack


class GradVacState(NamedTuple):
    """State of `gradvac`.

    Attributes:
        steps: steps so far; this number and the seed determine the random order.
        goals: running mean of the cosine of each pair of gradients.
    """

    steps: Int32[Array, ""]
    goals: Float[Array, "t t"]


@declare("gradient_method")
def gradvac(
    tasks: Sequence[str],
    *,
    beta: float = 0.5,
    seed: int = 0,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """Gradient vaccine (GradVac; Wang, Tsvetkov, Firat, Cao, ICLR 2021).

    Equation: as in `pcgrad`, each gradient visits the others in random order. If the cosine c between the current g and
    g_j is below its running mean m, g is rotated until the cosine is m:
    g <- g + |g| (m sqrt(1 - c^2) - c sqrt(1 - m^2)) / (|g_j| sqrt(1 - m^2)) g_j (equation 3).
    Then m <- (1 - beta) m + beta c, starting from 0. The results are summed. The paper uses beta = 0.01 for
    translation; LibMTL and TorchJD use 0.5.

    The running mean of a pair does not change at a step at which one of its tasks is absent.

    Args:
        tasks: task names.
        beta: weight of the new cosine in the running mean.
        seed: seed of the random order, at least 0.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together", "one_by_one" or "gram"; see `mtan_jax.weighting.gradients.weighted`.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import gradvac
        >>> tx = optax.chain(gradvac(("semantic", "depth")), optax.adam(1e-4))
    """
    beta = check_number("gradvac", "beta", beta, least=0, most=1)
    seed = check_count("gradvac", "seed", seed, least=0)
    tasks = check_tasks(tasks)
    count = len(tasks)

    def init() -> GradVacState:
        return GradVacState(jnp.zeros((), jnp.int32), jnp.zeros((count, count), jnp.float32))

    def weigh(stack: Stack, state: GradVacState) -> tuple[Float[Array, "t"], GradVacState]:
        order = random_orders(seed, state.steps, count)
        coefficients, goals = vaccinate(stack.gram, stack.present, order, state.goals.astype(stack.gram.dtype), beta)
        return coefficients.sum(0), GradVacState(optax.safe_increment(state.steps), goals.astype(jnp.float32))

    return weighted("gradvac", tasks, init, weigh, shared=shared, backward=backward)


def vaccinate(
    gram: Float[Array, "t t"],
    present: Bool[Array, "t"],
    order: Int32[Array, "t t"],
    goals: Float[Array, "t t"],
    beta: float,
) -> tuple[Float[Array, "t t"], Float[Array, "t t"]]:
    """The coefficients of each rotated gradient, and the new running means of the cosines.

    Args:
        gram: G_ij = <g_i, g_j>.
        present: tasks that take part.
        order: row i is the order in which task i visits the tasks; it skips itself.
        goals: the running means.
        beta: weight of the new cosine.

    Returns:
        C, where sum_j C_ij g_j is the rotated gradient of task i, and the means.
    """
    rows = jnp.arange(len(gram))
    # Compute with gradients divided by their norms: the squares of small gradients would underflow.
    lengths = jnp.sqrt(jnp.diag(gram))
    active = present & (lengths > 0)
    lengths = jnp.where(active, lengths, 1)
    cosines = jnp.where(active[:, None] & active[None], gram / lengths[:, None] / lengths[None], 0)

    def visit(
        k: Array, carry: tuple[Float[Array, "t t"], Float[Array, "t t"]]
    ) -> tuple[Float[Array, "t t"], Float[Array, "t t"]]:
        coefficients, goals = carry
        j = order[:, k]
        along = coefficients @ cosines
        length = jnp.sqrt(jnp.maximum((along * coefficients).sum(1), 0))
        cosine = jnp.clip(along[rows, j] / jnp.where(length > 0, length, 1), -1, 1)
        goal = goals[rows, j]
        sine, goal_sine = jnp.sqrt(1 - cosine**2), jnp.sqrt(jnp.maximum(1 - goal**2, 1e-12))
        meets = active & active[j] & (j != rows) & (length > 0)
        more = jnp.where(meets & (cosine < goal), length * (goal * sine - cosine * goal_sine) / goal_sine, 0)
        goals = goals.at[rows, j].set(jnp.where(meets, (1 - beta) * goal + beta * cosine, goal))
        return coefficients.at[rows, j].add(more), goals

    coefficients, goals = lax.fori_loop(0, len(gram), visit, (jnp.eye(len(gram), dtype=gram.dtype), goals))
    return coefficients * lengths[:, None] / lengths[None], goals
