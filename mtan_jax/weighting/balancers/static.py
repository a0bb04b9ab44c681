"""Constant weights given by the user."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.option_checks import check_tasks, check_weight, in_task_order


@declare("balancer")
def static(tasks: Sequence[str], *, weights: Mapping[str, float]) -> optax.GradientTransformationExtraArgs:
    """Constant weights w_i, given by the user.

    Args:
        tasks: task names, in the order of the losses.
        weights: one weight per task, finite and at least 0. They are not normalized.

    Raises:
        ValueError: the weights are not for exactly these tasks, or one is negative or not finite.

    Example:
        >>> from mtan_jax.weighting import static
        >>> tx = static(("semantic", "depth"), weights={"semantic": 1.0, "depth": 0.1})
        >>> static(("semantic", "depth"), weights={"semantic": 1.0})
        Traceback (most recent call last):
        ValueError: static weights: missing ['depth'], unknown []; expected exactly ['semantic', 'depth']
    """
    tasks = check_tasks(tasks)
    values = in_task_order("static weights", tasks, weights)
    factors = tuple(check_weight("static", task, value) for task, value in zip(tasks, values, strict=True))

    def step(task_gradients: TaskGradients, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        return jnp.asarray(factors, task_gradients.weights.dtype), state

    return balancer("static", tasks, optax.EmptyState, step)
