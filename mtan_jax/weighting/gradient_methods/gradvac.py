"""Gradient vaccine."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

from mtan_jax.weighting.core import check_number
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradient_methods.pcgrad import random_orders
from mtan_jax.weighting.gradients import Backward, Shared, Stack, weighted


class GradVacState(NamedTuple):
    """State of `gradvac`.

    Attributes:
        steps: taken so far, of which the random order follows.
        goals: the running mean of the cosines of every pair of gradients.
    """

    steps: Int32[Array, ""]
    goals: Float[Array, "t t"]


@declare("gradient_method")
def gradvac(
    tasks: Sequence[str],
    *,
    beta: float = 0.5,
    seed: int = 0,
    shared: Shared = "all_but_heads",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """Gradient vaccine (GradVac; Wang, Tsvetkov, Firat, Cao, ICLR 2021).

    Equation: as in `pcgrad` each gradient visits the others in random order. Where the cosine c between g as it is and
    g_j is below its running mean m, g is turned until it is m: g <- g + |g| (m sqrt(1 - c^2) - c sqrt(1 - m^2)) /
    (|g_j| sqrt(1 - m^2)) g_j (equation 3). Then m <- (1 - beta) m + beta c, from 0 at the start. The results are
    summed. The paper takes beta = 0.01 for translation; LibMTL and TorchJD take 0.5.

    The mean of a pair stays as it is at a step where one of the two is absent.

    Args:
        tasks: names, in the order of the losses.
        beta: share of the new cosine in the running mean.
        seed: of the random order.
        shared: which parameters the method acts on; see `mtan_jax.weighting.gradients.weighted`.
        backward: "together" or "one_by_one"; see there.

    Raises:
        ValueError: an option is out of its range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import gradvac
        >>> tx = optax.chain(gradvac(("semantic", "depth")), optax.adam(1e-4))
    """
    check_number("gradvac", "beta", beta, least=0, most=1)
    count = len(tasks)

    def init() -> GradVacState:
        return GradVacState(jnp.zeros((), jnp.int32), jnp.zeros((count, count), jnp.float32))

    def weigh(stack: Stack, state: GradVacState) -> tuple[Float[Array, "t"], GradVacState]:
        order = random_orders(seed, state.steps, count)
        made_of, goals = vaccinate(stack.gram, stack.present, order, state.goals.astype(stack.gram.dtype), beta)
        return made_of.sum(0), GradVacState(optax.safe_increment(state.steps), goals.astype(jnp.float32))

    return weighted("gradvac", tasks, init, weigh, shared=shared, backward=backward)


def vaccinate(
    gram: Float[Array, "t t"],
    present: Bool[Array, "t"],
    order: Int32[Array, "t t"],
    goals: Float[Array, "t t"],
    beta: float,
) -> tuple[Float[Array, "t t"], Float[Array, "t t"]]:
    """What each turned gradient is made of, and the new running means of the cosines.

    Args:
        gram: G_ij = <g_i, g_j>.
        present: tasks that take part.
        order: row i is the order in which task i visits the tasks; itself it leaves out.
        goals: the running means.
        beta: share of the new cosine.

    Returns:
        C, the turned gradient of task i being sum_j C_ij g_j; and the means.
    """
    rows = jnp.arange(len(gram))
    # In units of each gradient's length, so that no square is too small for its type.
    lengths = jnp.sqrt(jnp.diag(gram))
    there = present & (lengths > 0)
    lengths = jnp.where(there, lengths, 1)
    cosines = jnp.where(there[:, None] & there[None], gram / lengths[:, None] / lengths[None], 0)

    def visit(
        k: Array, carry: tuple[Float[Array, "t t"], Float[Array, "t t"]]
    ) -> tuple[Float[Array, "t t"], Float[Array, "t t"]]:
        made_of, goals = carry
        j = order[:, k]
        along = made_of @ cosines
        length = jnp.sqrt(jnp.maximum((along * made_of).sum(1), 0))
        cosine = jnp.clip(along[rows, j] / jnp.where(length > 0, length, 1), -1, 1)
        goal = goals[rows, j]
        sine, goal_sine = jnp.sqrt(1 - cosine**2), jnp.sqrt(jnp.maximum(1 - goal**2, 1e-12))
        meets = there & there[j] & (j != rows) & (length > 0)
        more = jnp.where(meets & (cosine < goal), length * (goal * sine - cosine * goal_sine) / goal_sine, 0)
        goals = goals.at[rows, j].set(jnp.where(meets, (1 - beta) * goal + beta * cosine, goal))
        return made_of.at[rows, j].add(more), goals

    made_of, goals = lax.fori_loop(0, len(gram), visit, (jnp.eye(len(gram), dtype=gram.dtype), goals))
    return made_of * lengths[:, None] / lengths[None], goals
