"""Gradient sign dropout."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import Combined, combined
from mtan_jax.weighting.option_checks import check_count, check_number
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.stack import Stack


class GradDropState(NamedTuple):
    """State of `graddrop`.

    Attributes:
        steps: steps so far; this number and the seed determine the random numbers.
    """

    steps: Int32[Array, ""]


@declare("gradient_method")
def graddrop(
    tasks: Sequence[str],
    *,
    leak: float = 0.0,
    seed: int = 0,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """Gradient sign dropout (GradDrop; Chen, Ngiam, Huang et al., NeurIPS 2020, algorithm 1).

    Equation: at each element the gradients of one sign, chosen at random, are dropped: the negative ones with
    probability P = (1 + sum_i g_i / sum_i |g_i|) / 2, otherwise the positive ones. Dropped gradients are scaled by
    `leak`.

    The paper applies this to the gradients of features, multiplied by the features' signs, and so does LibMTL. The code
    of CAGrad, Nash-MTL and FAMO, and TorchJD, apply it to the gradients of shared parameters, as here.

    Args:
        tasks: task names.
        leak: factor of dropped gradients, from 0 to 1; 1 gives the sum of the gradients.
        seed: seed of the random numbers, at least 0.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together" or "one_by_one"; see `mtan_jax.weighting.gradients.combined`.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import graddrop
        >>> tx = optax.chain(graddrop(("semantic", "depth")), optax.adam(1e-4))
    """
    leak = check_number("graddrop", "leak", leak, least=0, most=1)
    seed = check_count("graddrop", "seed", seed, least=0)

    def init(leaves: tuple[Array, ...]) -> GradDropState:
        del leaves
        return GradDropState(jnp.zeros((), jnp.int32))

    def combine(stack: Stack, state: GradDropState) -> Combined:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.steps), len(stack.leaves))
        leaves = tuple(
            drop_signs(leaf, jax.random.uniform(key, leaf.shape[1:]), leak)
            for leaf, key in zip(stack.leaves, keys, strict=True)
        )
        ones = jnp.ones_like(stack.losses)
        return Combined(leaves, ones, ones, GradDropState(optax.safe_increment(state.steps)))

    return combined("graddrop", tasks, init, combine, shared=shared, backward=backward, state_per_parameter=False)


def drop_signs(gradients: Float[Array, "t ..."], threshold: Float[Array, "..."], leak: float) -> Float[Array, "..."]:
    """Sums the gradients without those of one sign, elementwise.

    Args:
        gradients: one per task.
        threshold: numbers from 0 to 1; negative gradients are dropped where P exceeds them.
        leak: factor of dropped gradients.
    """
    # Row by row: on CPUs, XLA takes 20 times as long for a sum over the first axis.
    zero = jnp.zeros((), gradients.dtype)
    above = sum((jnp.maximum(row, 0) for row in gradients), zero)
    below = sum((jnp.minimum(row, 0) for row in gradients), zero)
    size = above - below
    positive = above / jnp.where(size > 0, size, 1)  # equals P
    return jnp.where(positive > threshold, above + leak * below, below + leak * above)
