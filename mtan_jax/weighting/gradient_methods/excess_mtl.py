"""ExcessMTL."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int32

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import Combined, combined
from mtan_jax.weighting.option_checks import check_choice, check_count, check_number, check_tasks, check_unused
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.stack import Stack, weighted_sum, zeros_per_task

_SMALLEST_SQUARE = 1e-7


class ExcessMTLState(NamedTuple):
    """State of `excess_mtl`.

    Attributes:
        seen: number of steps at which each task was present.
        squares: sums of the squared gradients per task, one array [t, ...] per shared parameter, in float32 or wider.
        baseline: sum of the first excess risks, the unit of later ones.
        weights: weights of the last step.
    """

    seen: Int32[Array, "t"]
    squares: tuple[Float[Array, "t ..."], ...]
    baseline: Float[Array, "t"]
    weights: Float[Array, "t"]


@declare("gradient_method")
def excess_mtl(
    tasks: Sequence[str],
    *,
    step_size: float = 0.01,
    variant: Literal["authors", "paper"] = "authors",
    warmup_steps: int | None = None,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """ExcessMTL (He, Zhou, Zhang, ICML 2024): more weight for tasks that are far from their own optimum.

    Equation: w_i <- w_i exp(step_size E_i), normalized (equations 6, 7 and 9). The excess risk is estimated as
    E_i = g_i' H_i^-1 g_i, H_i = diag(sqrt(sum of the g_i^2 so far + 1e-7)), relative to its initial value. Two
    published codes differ:

    - "authors" (the authors' code, and LibMTL): E is relative to that of the first step, at which w = 1. The weights
      sum to the number of tasks.
    - "paper" (appendix C.1; TorchJD): E is relative to its mean over the first `warmup_steps`, during which w is
      constant. The weights sum to 1.

    The weights apply to all parameters, shared or not. An absent task keeps its weight.

    Args:
        tasks: task names.
        step_size: the default is LibMTL's. The authors try 1e-4 to 10, depending on the dataset; TorchJD uses 1.
        variant: "authors" or "paper".
        warmup_steps: only for "paper", which uses three epochs; None: 1.
        shared: the parameters whose gradients give the excess risks; see `mtan_jax.weighting.gradients.combined`.
        backward: "together" or "one_by_one"; see `mtan_jax.weighting.gradients.combined`.

    Raises:
        ValueError: an option is out of range or has no effect.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import excess_mtl
        >>> tx = optax.chain(excess_mtl(("semantic", "depth")), optax.adam(1e-4))
    """
    step_size = check_number("excess_mtl", "step_size", step_size, above=0)
    check_choice("excess_mtl", "variant", variant, ("authors", "paper"))
    if variant == "authors":
        check_unused("excess_mtl", "warmup_steps", warmup_steps, "variant 'authors'")
    warmup = check_count("excess_mtl", "warmup_steps", 1 if warmup_steps is None else warmup_steps, least=1)
    tasks = check_tasks(tasks)
    count = len(tasks)
    total = count if variant == "authors" else 1

    def init(leaves: tuple[Array, ...]) -> ExcessMTLState:
        return ExcessMTLState(
            seen=jnp.zeros(count, jnp.int32),
            squares=zeros_per_task(leaves, count),
            baseline=jnp.zeros(count, jnp.float32),
            weights=jnp.full(count, total / count, jnp.float32),
        )

    def combine(stack: Stack, state: ExcessMTLState) -> Combined:
        present = stack.present
        new = tuple(jnp.square(leaf.astype(old.dtype)) for old, leaf in zip(state.squares, stack.leaves, strict=True))
        squares = jax.tree.map(jnp.add, state.squares, new)
        parts = [
            (n / jnp.sqrt(s + _SMALLEST_SQUARE)).reshape(count, -1).sum(1) for n, s in zip(new, squares, strict=True)
        ]
        excess = lax.stop_gradient(sum(parts[1:], parts[0]).astype(jnp.float32))
        is_first = state.seen < warmup
        baseline = state.baseline + jnp.where(present & is_first, excess, 0)
        unit = baseline / warmup
        relative = jnp.where(unit > 0, excess / jnp.where(unit > 0, unit, 1), 0)
        moves = present & ~is_first
        logits = jnp.where(moves, jnp.log(state.weights) + step_size * relative, -jnp.inf)
        shares = jax.nn.softmax(jnp.where(moves.any(), logits, 0))
        # The tasks whose weights change keep their sum.
        moved = (state.weights * moves).sum() * shares
        weights = jnp.where(moves, jnp.maximum(moved, jnp.finfo(jnp.float32).tiny), state.weights)
        leaves = tuple(weighted_sum(weights, leaf) for leaf in stack.leaves)
        return Combined(leaves, weights, weights, ExcessMTLState(state.seen + present, squares, baseline, weights))

    return combined("excess_mtl", tasks, init, combine, shared=shared, backward=backward)
