"""Hypervolume maximization."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.numerics import SMALLEST_LOSS, nan_if_negative
from mtan_jax.weighting.option_checks import check_tasks
from mtan_jax.weighting.preferences import PerTask, per_task

_MARGIN = 1.1


@declare("balancer")
def hypervolume(
    tasks: Sequence[str], *, reference: PerTask | None = None, members: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """Hypervolume maximization (Deist, Grewal, Dankers, Alderliesten, Bosman, 2021): spreads members along the front.

    A population of p networks is trained together. The hypervolume is the volume of the losses that some member
    dominates and that dominate the reference point. Equation: member j minimizes sum_i w_ij L_ij with
    w_ij = -d HV / d L_ij, so that all members together ascend the hypervolume. As in the paper and its code,

    - members are sorted into fronts (a member of a front is dominated by members of earlier fronts only), and HV is
      that of the member's front, so that dominated members have a gradient too (Wang et al., 2017),
    - the weights of each member are divided by their norm,
    - the reference point is at least 1.1 times the largest loss of all members.

    Equal members count as one. If two members share the loss of one task only, the gradient is one-sided; the published
    code sets it to 0.

    The members are an axis of `jax.vmap`, whose name is `members`:

        step = jax.vmap(train_step, in_axes=(0, 0, None), axis_name="members")

    Each member reads the losses of all (`jax.lax.all_gather`). Members need different initial parameters. Without
    `members` there is one: its HV is prod_i (r_i - L_i), so that w_i is proportional to 1 / (r_i - L_i). The time grows
    as p times p^(K-1) or 2^p, whichever is less.

    Losses are those after the weights of preceding methods, and must be nonnegative. Absent tasks have weight 0, and
    HV is that of the others.

    Args:
        tasks: task names.
        reference: the reference point, as a mapping from task to a positive number, or an array in the order of the
            tasks. None: 1.1 times the largest losses at each step. Members at the ends of the front have little weight
            for a task whose largest loss is near the reference point.
        members: name of the axis of the population; None: a single member.

    Raises:
        ValueError: an option is out of range, or the reference is not for exactly these tasks.

    Example:
        >>> from mtan_jax.weighting import hypervolume
        >>> tx = hypervolume(("semantic", "depth"), reference={"semantic": 2.0, "depth": 1.0}, members="members")
    """
    tasks = check_tasks(tasks)
    if members is not None and not isinstance(members, str):
        raise ValueError(f"hypervolume members is {members!r}; expected the name of an axis of jax.vmap, or None")
    least = np.zeros(len(tasks)) if reference is None else per_task("hypervolume", "reference", tasks, reference)

    def step(task_gradients: TaskGradients, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        losses, present = task_gradients.weights * task_gradients.losses, task_gradients.present
        index = jnp.zeros((), jnp.int32) if members is None else lax.axis_index(members)
        population = losses[None] if members is None else lax.all_gather(losses, members)
        factors = member_weights(population, index, present, jnp.asarray(least, losses.dtype))
        return nan_if_negative(factors, losses, present), state

    return balancer("hypervolume", tasks, optax.EmptyState, step)


def member_weights(
    population: Float[Array, "p t"], index: Int[Array, ""], present: Bool[Array, "t"], reference: Float[Array, "t"]
) -> Float[Array, "t"]:
    """The weights of one member: the gradient of the hypervolume of its front, with norm 1.

    Args:
        population: the losses of all members.
        index: of the member.
        present: tasks that take part; the others have weight 0.
        reference: least reference point.
    """
    # In units of the reference point, losses are from 0 to 1 / 1.1. Absent tasks are 0 for all members.
    reference = jnp.maximum(jnp.maximum(_MARGIN * population.max(0), reference), SMALLEST_LOSS)
    points = jnp.where(present[None], population / reference[None], 0)
    own = points[index]
    fronts = front_indices(points)
    is_equal = (points == own[None]).all(1) & (jnp.arange(len(points)) != index)
    others = jnp.where(((fronts == fronts[index]) & ~is_equal)[:, None], points, 1)

    def volume(own: Float[Array, "t"]) -> Float[Array, ""]:
        return dominated_volume(others.at[index].set(own))

    # Divided by the largest element first, whose square cannot overflow.
    gradient = jnp.where(present, jnp.maximum(-jax.grad(volume)(own), 0) / reference, 0)
    gradient = gradient / jnp.maximum(gradient.max(), jnp.finfo(gradient.dtype).tiny)
    norm = jnp.sqrt((gradient**2).sum())
    return gradient / jnp.where(norm > 0, norm, 1)


def dominated_volume(points: Float[Array, "p t"]) -> Float[Array, ""]:
    """The volume of the part of the unit cube that some point dominates (elementwise at most).

    A point with a coordinate of 1 or more dominates nothing.
    """
    points = jnp.minimum(points, 1)
    count, tasks = points.shape
    return volume_by_subsets(points) if 2**count < count ** (tasks - 1) else volume_by_slices(points)


def volume_by_slices(points: Float[Array, "p t"]) -> Float[Array, ""]:
    """The dominated volume, cut at the points' last coordinates, in about p^(K-1) operations.

    The points below a slice, without their last coordinate, dominate its cross-section.
    """
    if points.shape[1] == 1:
        return 1 - points.min()
    points = points[jnp.argsort(points[:, -1])]
    widths = jnp.diff(points[:, -1], append=1)
    rest = points[:, :-1]
    if points.shape[1] == 2:
        return (widths * (1 - lax.cummin(rest[:, 0]))).sum()
    below = jnp.tri(len(points), dtype=bool)[:, :, None]
    return (widths * jax.vmap(volume_by_slices)(jnp.where(below, rest[None], 1))).sum()


def volume_by_subsets(points: Float[Array, "p t"]) -> Float[Array, ""]:
    """The dominated volume, a union of boxes, by inclusion and exclusion in about 2^p operations."""
    subsets = (np.arange(1, 2 ** len(points))[:, None] >> np.arange(len(points))) & 1
    corners = jnp.where(subsets[:, :, None] == 1, points[None], 0).max(1)
    signs = 2 * (subsets.sum(1) % 2) - 1
    return (signs * (1 - corners).prod(1)).sum()


def front_indices(points: Float[Array, "p t"]) -> Int[Array, "p"]:
    """The index of each point's front: the length of the longest chain of points that dominate it."""
    dominates = (points[:, None] <= points[None]).all(2) & (points[:, None] < points[None]).any(2)

    def longer(_: Array, fronts: Int[Array, "p"]) -> Int[Array, "p"]:
        return jnp.where(dominates, fronts[:, None] + 1, 0).max(0)

    return lax.fori_loop(0, len(points), longer, jnp.zeros(len(points), jnp.int32))
