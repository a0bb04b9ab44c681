"""Geometric loss strategy."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.numerics import SMALLEST_LOSS, nan_if_negative
from mtan_jax.weighting.option_checks import check_tasks


@declare("balancer")
def geometric(tasks: Sequence[str]) -> optax.GradientTransformationExtraArgs:
    """The geometric mean of the losses (GLS; Chennupati, Sistu, Yogamani, Rawashdeh, CVPR workshops 2019).

    Equation: the total loss is (prod_i L_i)^(1/K), so w_i = (prod_j L_j)^(1/K) / (K L_i). K is the number of present
    tasks; absent tasks have weight 0. Losses below 1e-10 count as 1e-10.

    Args:
        tasks: task names.

    Raises:
        ValueError: no task, or a repeated name.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import geometric, sum_tasks
        >>> tasks = ("semantic", "depth")
        >>> tx = optax.chain(geometric(tasks), sum_tasks(tasks), optax.adam(1e-4))
    """
    tasks = check_tasks(tasks)

    def step(task_gradients: TaskGradients, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        present = task_gradients.present
        given = task_gradients.weights * task_gradients.losses
        losses = jnp.maximum(given, SMALLEST_LOSS)
        count = jnp.maximum(present.sum(), 1)
        mean = jnp.exp(jnp.where(present, jnp.log(losses), 0).sum() / count)
        return nan_if_negative(jnp.where(present, mean / (count * losses), 0), given, present), state

    return balancer("geometric", tasks, optax.EmptyState, step)
