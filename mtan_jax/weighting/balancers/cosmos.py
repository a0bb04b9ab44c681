"""The objective of COSMOS."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.balancers.pbi import check_preference, unit_vector
from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.numerics import nan_if_negative
from mtan_jax.weighting.option_checks import check_number, check_tasks

_SMALLEST_NORM = 1e-8  # as in torch.nn.functional.cosine_similarity


@declare("balancer")
def cosmos(
    tasks: Sequence[str], *, weights: Mapping[str, float] | None = None, penalty: float = 2.0
) -> optax.GradientTransformationExtraArgs:
    """The objective of COSMOS (Ruchte and Grabocka, ICDM 2021): a weighted sum that rewards losses in given ratios.

    Equation: the total loss is <r, L> - lambda cos(r, L), with a preference r. So
    w_i = r_i - lambda (r_i / |r| - cos(r, L) L_i / |L|) / |L|. The cosine steers the losses to the ratios of r: a task
    with a larger r ends with a larger loss. A weight is negative where a loss is far enough below its ratio; the step
    then raises that loss.

    The paper draws r from a Dirichlet distribution at every step and feeds it to the network, which so learns all
    trade-offs. Here r is constant and the network does not see it, so a run learns one trade-off.

    r and L have the elements of the present tasks only; absent tasks have weight 0. |L| counts as at least 1e-8.

    Args:
        tasks: task names.
        weights: r, at least 0 per task; None: 1 / K each. The paper's r sums to 1.
        penalty: lambda; the authors use 0.01 to 8, depending on the dataset, and 2 for Multi-MNIST.

    Raises:
        ValueError: the weights are not for exactly these tasks or all 0, or a number is out of range.

    Example:
        >>> from mtan_jax.weighting import cosmos
        >>> tx = cosmos(("semantic", "depth"), weights={"semantic": 0.7, "depth": 0.3}, penalty=0.5)
    """
    tasks = check_tasks(tasks)
    penalty = check_number("cosmos", "penalty", penalty, least=0)
    preferred = check_preference("cosmos", tasks, weights)

    def step(task_gradients: TaskGradients, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        present = task_gradients.present
        losses = jnp.where(present, task_gradients.weights * task_gradients.losses, 0)
        preference = jnp.where(present, jnp.asarray(preferred, losses.dtype), 0)
        norm = jnp.maximum(jnp.linalg.norm(losses), _SMALLEST_NORM)
        unit, direction = unit_vector(preference), losses / norm
        factors = preference - penalty * (unit - unit @ direction * direction) / norm
        return nan_if_negative(factors, losses, present), state

    return balancer("cosmos", tasks, optax.EmptyState, step)
