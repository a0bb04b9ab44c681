"""Krum and Multi-Krum."""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import weighted
from mtan_jax.weighting.option_checks import check_choice, check_count, check_tasks
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.solvers import unit_size
from mtan_jax.weighting.stack import Stack


@declare("gradient_method")
def krum(
    tasks: Sequence[str],
    *,
    num_byzantine: int = 0,
    num_selected: int = 1,
    distance: Literal["squared", "plain"] = "squared",
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """Krum and Multi-Krum (Blanchard, El Mhamdi, Guerraoui, Stainer, NeurIPS 2017): drops gradients far from the rest.

    Equation: the score of task i is the sum of |g_i - g_j|^2 over its n - f - 2 nearest other gradients, with n present
    tasks, of which f may be outliers. The update is the mean of the m gradients with the lowest scores (Krum: m = 1;
    Multi-Krum: m > 1). TorchJD sums the distances without squaring them; Flower squares them, as the paper does.

    Gradients with equal scores share their weight, so the order of the tasks does not matter; published codes take the
    first ones. With n - f = 3, each task has one neighbor, and the nearest two tasks always have equal scores. A step
    with fewer than f + 3 present tasks uses one neighbor, and one with fewer than m all gradients.

    Args:
        tasks: task names.
        num_byzantine: f. The paper's guarantee needs more than 2 f + 2 tasks.
        num_selected: m.
        distance: "squared", or "plain" distances.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together", "one_by_one" or "gram"; see `mtan_jax.weighting.gradients.weighted`.

    Raises:
        ValueError: an option is out of range; in particular, f > 0 needs at least f + 3 tasks.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import krum
        >>> tasks = ("semantic", "depth", "normal", "edges")
        >>> tx = optax.chain(krum(tasks, num_byzantine=1, num_selected=2), optax.adam(1e-4))
    """
    tasks = check_tasks(tasks)
    num_byzantine = check_count("krum", "num_byzantine", num_byzantine, least=0)
    num_selected = check_count("krum", "num_selected", num_selected, least=1)
    if num_byzantine > 0 and len(tasks) < num_byzantine + 3:
        raise ValueError(
            f"krum num_byzantine is {num_byzantine} with {len(tasks)} tasks; expected at least num_byzantine + 3 tasks"
        )
    if num_selected > len(tasks):
        raise ValueError(f"krum num_selected is {num_selected}; expected at most the number of tasks, {len(tasks)}")
    check_choice("krum", "distance", distance, ("squared", "plain"))

    def weigh(stack: Stack, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        distances = _squared_distances(unit_size(stack.gram))
        if distance == "plain":
            distances = jnp.sqrt(distances)
        return _lowest(_scores(distances, stack.present, num_byzantine), stack.present, num_selected), state

    return weighted("krum", tasks, optax.EmptyState, weigh, shared=shared, backward=backward)


def _squared_distances(gram: Float[Array, "t t"]) -> Float[Array, "t t"]:
    gram = (gram + gram.T) / 2  # exactly symmetric, so that the scores of a pair of nearest tasks are equal
    squares = jnp.diag(gram)
    return jnp.maximum(squares[:, None] + squares[None] - 2 * gram, 0)


def _scores(distances: Float[Array, "t t"], present: Bool[Array, "t"], num_byzantine: int) -> Float[Array, "t"]:
    """The sum of each present task's smallest distances to other present tasks."""
    others = present[None] & ~jnp.eye(len(present), dtype=bool)
    nearest = jnp.sort(jnp.where(others, distances, jnp.inf), axis=1)
    count = present.sum()
    is_summed = jnp.arange(len(present)) < jnp.clip(count - num_byzantine - 2, min(1, len(present) - 1), count - 1)
    return jnp.where(is_summed, nearest, 0).sum(1)


def _lowest(scores: Float[Array, "t"], present: Bool[Array, "t"], num_selected: int) -> Float[Array, "t"]:
    """The weights of the mean over the lowest scores; tasks that tie for the last places share them."""
    scores = jnp.where(present, scores, jnp.inf)
    count = jnp.minimum(num_selected, present.sum())
    last = jnp.sort(scores)[jnp.maximum(count - 1, 0)]
    is_below, is_last = present & (scores < last), present & (scores == last)
    share = (count - is_below.sum()) / jnp.maximum(is_last.sum(), 1)
    return (is_below + is_last * share) / jnp.maximum(count, 1)
