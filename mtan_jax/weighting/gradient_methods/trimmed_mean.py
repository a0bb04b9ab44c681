"""Coordinate-wise trimmed mean."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import Combined, combined
from mtan_jax.weighting.option_checks import check_count, check_tasks
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.stack import Stack


@declare("gradient_method")
def trimmed_mean(
    tasks: Sequence[str],
    *,
    trim: int | None = None,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """Coordinate-wise trimmed mean (Yin, Chen, Ramchandran, Bartlett, ICML 2018, definition 2).

    Equation: at each element, the `trim` largest and the `trim` smallest of the task gradients are dropped, and the
    update is the mean of the others. Dropping all but one or two gives the coordinate-wise median (definition 1).
    The paper gives the number as a share of the gradients; TorchJD as a count, as here.

    A step drops at most so many that one or two of the n present tasks remain: min(trim, (n - 1) // 2) on each side.
    The logged weights are 1 / n, because the weight of a task differs between elements.

    Args:
        tasks: task names.
        trim: gradients to drop on each side; None: as many as possible, which gives the median.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together" or "one_by_one"; see `mtan_jax.weighting.gradients.combined`.

    Raises:
        ValueError: `trim` is negative or leaves no gradient.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import trimmed_mean
        >>> tx = optax.chain(trimmed_mean(("semantic", "depth", "normal"), trim=1), optax.adam(1e-4))
    """
    tasks = check_tasks(tasks)
    most = (len(tasks) - 1) // 2
    if trim is not None:
        trim = check_count("trimmed_mean", "trim", trim, least=0)
        if trim > most:
            raise ValueError(
                f"trimmed_mean trim is {trim}, which leaves none of {len(tasks)} gradients; expected at most {most}"
            )
    wanted = most if trim is None else trim

    def combine(stack: Stack, state: optax.EmptyState) -> Combined:
        leaves = tuple(_trimmed_mean(leaf, stack.present, wanted) for leaf in stack.leaves)
        weights = stack.present / jnp.maximum(stack.present.sum(), 1)
        return Combined(leaves, weights, jnp.ones_like(weights), state)

    return combined("trimmed_mean", tasks, lambda leaves: optax.EmptyState(), combine, shared=shared, backward=backward)


def _trimmed_mean(leaf: Float[Array, "t ..."], present: Bool[Array, "t"], trim: int) -> Float[Array, "..."]:
    per_task = (len(leaf),) + (1,) * (leaf.ndim - 1)
    rising = jnp.sort(jnp.where(present.reshape(per_task), leaf, jnp.inf), axis=0)
    count = present.sum()
    dropped = jnp.clip((count - 1) // 2, 0, trim)
    rank = jnp.arange(len(leaf)).reshape(per_task)
    kept = jnp.where((rank >= dropped) & (rank < count - dropped), rising, 0)
    return kept.sum(0) / jnp.maximum(count - 2 * dropped, 1).astype(leaf.dtype)
