"""Scale-invariant loss."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.numerics import SMALLEST_LOSS, nan_if_negative
from mtan_jax.weighting.option_checks import check_tasks


@declare("balancer")
def scale_invariant(tasks: Sequence[str]) -> optax.GradientTransformationExtraArgs:
    """The sum of the logarithms of the losses, which does not depend on the units of any loss.

    Equation: the total loss is sum_i log L_i, so w_i = 1 / L_i ("SI" in the tables of Nash-MTL, ICML 2022). Losses
    below 1e-10 count as 1e-10. Absent tasks have weight 0.

    Args:
        tasks: task names.

    Raises:
        ValueError: no task, or a repeated name.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import scale_invariant, sum_tasks
        >>> tasks = ("semantic", "depth")
        >>> tx = optax.chain(scale_invariant(tasks), sum_tasks(tasks), optax.adam(1e-4))
    """
    tasks = check_tasks(tasks)

    def step(task_gradients: TaskGradients, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        losses = task_gradients.weights * task_gradients.losses
        factors = jnp.where(task_gradients.present, 1 / jnp.maximum(losses, SMALLEST_LOSS), 0)
        return nan_if_negative(factors, losses, task_gradients.present), state

    return balancer("scale_invariant", tasks, optax.EmptyState, step)
