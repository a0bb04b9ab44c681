"""GO4Align: one weight per group of tasks."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float

from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.numerics import SMALLEST_LOSS, nan_if_negative
from mtan_jax.weighting.option_checks import check_count, check_number, check_tasks


class GO4AlignState(NamedTuple):
    """State of `go4align`.

    Attributes:
        log_q: logarithms of q, which sums to 1.
    """

    log_q: Float[Array, "t"]


@declare("balancer")
def go4align(
    tasks: Sequence[str], *, groups: int = 2, step_size: float = 1e-4
) -> optax.GradientTransformationExtraArgs:
    """GO4Align (Shen, Wang, Xiao, Van Noord, Worring, NeurIPS 2024): groups of tasks share a weight.

    Equation, as in the authors' code: q_i <- q_i exp(-step_size L_i) / sum_j q_j exp(-step_size L_j), starting from
    equal q, is a task's indicator of risk, and v_i = q_i sum_j L_j / L_i its indicator on a common scale. K-means
    clusters the numbers v, and w_i is the mean of v over the cluster of task i.

    The authors run k-means from random centers, which may end in a local minimum. Here k-means is exact: in one
    dimension the clusters are intervals, and dynamic programming finds the best ones. The weights are then a function
    of the losses.

    Losses below 1e-10 count as 1e-10. An absent task keeps its q, has weight 0, and is in no group.

    Args:
        tasks: task names.
        groups: number of groups. The authors' code has 1 as its default: all tasks then share one weight. With as many
            groups as tasks (or more), each task has its own.
        step_size: rate at which q moves towards the tasks with small losses; the default of the authors' code.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import go4align, sum_tasks
        >>> tasks = ("semantic", "depth", "normal")
        >>> tx = optax.chain(go4align(tasks, groups=2), sum_tasks(tasks), optax.adam(1e-4))
    """
    tasks = check_tasks(tasks)
    groups = check_count("go4align", "groups", groups, least=1)
    step_size = check_number("go4align", "step_size", step_size, least=0)

    def init() -> GO4AlignState:
        return GO4AlignState(jnp.full(len(tasks), -math.log(len(tasks)), jnp.float32))

    def step(task_gradients: TaskGradients, state: GO4AlignState) -> tuple[Float[Array, "t"], GO4AlignState]:
        present = jnp.asarray(task_gradients.present)
        given = task_gradients.weights * task_gradients.losses
        losses = jnp.maximum(given, SMALLEST_LOSS)
        # q of the present tasks, normalized over them: the softmax of these numbers.
        moved = state.log_q - step_size * losses.astype(state.log_q.dtype)
        moved = jnp.where(present | ~present.any(), moved, -jnp.inf)
        indicators = jax.nn.softmax(moved) * (losses.sum(where=present) / losses)
        # The present tasks keep their share of q in total, so that q of an absent task does not change.
        share = jax.nn.logsumexp(jnp.where(present | ~present.any(), state.log_q, -jnp.inf))
        log_q = jnp.where(present, jax.nn.log_softmax(moved) + share, state.log_q)
        factors = cluster_means(indicators, present, min(groups, len(tasks)))
        return nan_if_negative(factors, given, present), GO4AlignState(log_q)

    return balancer("go4align", tasks, init, step)


def cluster_means(values: Float[Array, "t"], present: Bool[Array, "t"], clusters: int) -> Float[Array, "t"]:
    """The center of each value's cluster, for the clusters with the least sum of squared distances to their centers.

    Args:
        values: nonnegative numbers to cluster.
        present: values that count; the others get 0.
        clusters: number of clusters, at most the number of values.
    """
    count = len(values)
    order = jnp.argsort(jnp.where(present, values, jnp.inf))
    points, counted = values[order], present[order]
    largest = jnp.where(counted, points, 0).max()
    points = jnp.where(counted, points / jnp.where(largest > 0, largest, 1), 0)
    position = jnp.arange(count)
    starts_before, ends_after = position[:, None] <= position[None], position[:, None] >= position[None]
    # inside[i, j, k]: value k counts and is in the interval from i to j.
    inside = starts_before[:, None] & ends_after[None] & counted[None, None]
    means = (points[None, None] * inside).sum(2) / jnp.maximum(inside.sum(2), 1)
    costs = (jnp.square(points[None, None] - means[..., None]) * inside).sum(2)
    costs = jnp.where(starts_before, costs, jnp.inf)

    # best[j]: the least cost of the first j + 1 values; starts[g][j]: where the last of their g + 1 clusters begins.
    best, starts = costs[0], [jnp.zeros(count, int)]
    for _ in range(1, clusters):
        with_start = jnp.concatenate([jnp.zeros(1, best.dtype), best[:-1]])[:, None] + costs
        starts.append(jnp.argmin(with_start, axis=0))
        best = with_start.min(0)

    def assign(end: Array, start_at: Array) -> tuple[Array, Array]:
        start = jnp.where(end >= 0, start_at[end], 0)
        return start - 1, jnp.where((position >= start) & (position <= end), means[start, end], 0)

    _, parts = lax.scan(assign, jnp.asarray(count - 1), jnp.stack(starts[::-1]))
    return jnp.where(present, jnp.zeros_like(values).at[order].set(parts.sum(0) * largest), 0)
