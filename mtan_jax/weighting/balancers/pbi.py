"""Penalty-based boundary intersection."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.option_checks import check_number, check_tasks, check_weight, in_task_order


@declare("balancer")
def pbi(
    tasks: Sequence[str],
    *,
    weights: Mapping[str, float] | None = None,
    theta: float = 5.0,
    ideal: Mapping[str, float] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Penalty-based boundary intersection (PBI; Zhang and Li, MOEA/D, IEEE Trans. Evolutionary Computation, 2007).

    Equation: with the unit vector u = r / |r| of a preference r and the losses above an ideal point, a = L - z, the
    total loss is d_1 + theta d_2, where d_1 = <a, u> is the distance along u and d_2 = |a - d_1 u| the distance from
    the line. So w = u + theta (a - d_1 u) / d_2. The method steers the losses to the ratios of r: a task with a larger
    r ends with a larger loss.

    A weight is negative where a loss is far enough below its ratio; the step then raises that loss. On the line itself,
    where d_2 has no derivative, w is u. To avoid rounding noise, d_2 counts as at least |a| times the root of the
    machine epsilon in the divisor; TorchJD adds 1e-12 under the root of d_2 instead.

    a and u have the elements of the present tasks only; absent tasks have weight 0.

    Args:
        tasks: task names.
        weights: r, at least 0 per task; None: equal ratios.
        theta: penalty of the distance from the line; 5 in the paper's experiments.
        ideal: z, a lower bound of each loss; None: 0.

    Raises:
        ValueError: a mapping is not for exactly these tasks, all weights are 0, or a number is out of range.

    Example:
        >>> from mtan_jax.weighting import pbi
        >>> tx = pbi(("semantic", "depth"), weights={"semantic": 1.0, "depth": 0.2}, theta=0.5)
    """
    tasks = check_tasks(tasks)
    theta = check_number("pbi", "theta", theta, least=0)
    preferred = check_preference("pbi", tasks, weights)
    given = in_task_order("pbi ideal", tasks, ideal if ideal is not None else dict.fromkeys(tasks, 0.0))
    points = [check_number("pbi", f"ideal of {task!r}", point) for task, point in zip(tasks, given, strict=True)]

    def step(task_gradients: TaskGradients, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        present = task_gradients.present
        losses = task_gradients.weights * task_gradients.losses
        above = jnp.where(present, losses - jnp.asarray(points, losses.dtype), 0)
        unit = unit_vector(jnp.where(present, jnp.asarray(preferred, losses.dtype), 0))
        across = above - above @ unit * unit
        smallest = float(jnp.finfo(losses.dtype).eps) ** 0.5 * jnp.linalg.norm(above)
        distance = jnp.maximum(jnp.linalg.norm(across), smallest)
        return unit + theta * across / jnp.where(distance > 0, distance, 1), state

    return balancer("pbi", tasks, optax.EmptyState, step)


def check_preference(name: str, tasks: tuple[str, ...], weights: Mapping[str, float] | None) -> tuple[float, ...]:
    """The elements of a preference vector in the order of the tasks; 1 / K each for None.

    Raises:
        ValueError: the weights are not for exactly these tasks, one is negative or not finite, or all are 0.
    """
    if weights is None:
        return (1 / len(tasks),) * len(tasks)
    values = in_task_order(f"{name} weights", tasks, weights)
    found = tuple(check_weight(name, task, value) for task, value in zip(tasks, values, strict=True))
    if not any(found):
        raise ValueError(f"{name} weights are all 0; expected at least one above 0")
    return found


def unit_vector(vector: Float[Array, "t"]) -> Float[Array, "t"]:
    """A vector divided by its norm; 0 stays 0."""
    norm = jnp.linalg.norm(vector)
    return vector / jnp.where(norm > 0, norm, 1)
