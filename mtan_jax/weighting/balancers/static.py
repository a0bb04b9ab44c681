"""Constant weights given by the user."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.option_checks import check_tasks
from mtan_jax.weighting.preferences import PerTask, per_task


@declare("balancer")
def static(tasks: Sequence[str], *, weights: PerTask) -> optax.GradientTransformationExtraArgs:
    """Constant weights w_i, given by the user.

    Args:
        tasks: task names.
        weights: one weight per task, finite and at least 0, as a mapping from task to weight, or an array in the order
            of the tasks, which may be traced (`jax.vmap` over weights). They are not normalized.

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
    factors = per_task("static", "weights", tasks, weights, zero=True)

    def step(task_gradients: TaskGradients, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        return jnp.asarray(factors, task_gradients.weights.dtype), state

    return balancer("static", tasks, optax.EmptyState, step)
