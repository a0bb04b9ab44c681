"""Equal weights."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.option_checks import check_tasks


@declare("balancer")
def equal(tasks: Sequence[str]) -> optax.GradientTransformationExtraArgs:
    """The unweighted sum of the losses: w_i = 1 for every task.

    Args:
        tasks: task names.

    Raises:
        ValueError: no task, or a repeated name.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from mtan_jax.weighting import TaskGradients, equal, sum_tasks, task_weights
        >>> tasks = ("semantic", "depth")
        >>> tx = optax.chain(equal(tasks), sum_tasks(tasks), optax.adam(1e-4))
        >>> print(task_weights(tx.init(jnp.zeros(3))))
        [1. 1.]
    """
    tasks = check_tasks(tasks)

    def step(task_gradients: TaskGradients, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        return jnp.ones_like(task_gradients.weights), state

    return balancer("equal", tasks, optax.EmptyState, step)
