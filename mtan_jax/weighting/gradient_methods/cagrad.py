"""Conflict-averse gradient descent."""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.core import check_number
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import Backward, Shared, Stack, weighted
from mtan_jax.weighting.solvers import conflict_averse, unit_size


@declare("gradient_method")
def cagrad(
    tasks: Sequence[str],
    *,
    c: float = 0.4,
    rescale: Literal["none", "squared", "linear"] = "squared",
    times_tasks: bool = True,
    shared: Shared = "backbone",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    r"""Conflict-averse gradient descent (CAGrad; Liu, Liu, Jin, Stone, Liu, NeurIPS 2021).

    Equation: of all updates within c |g_0| of the mean gradient g_0, the one that serves the worst task best. It is
    g_0 + c |g_0| / |g_w| g_w with w = argmin over the simplex of <g_w, g_0> + c |g_0| |g_w|, g_w = sum_i w_i g_i
    (algorithm 1). With c >= 1 no task is conflicted with. The authors' code divides the update by 1 + c^2, and their
    multi-task runs multiply it by the number of tasks, so that its size is that of the sum of the gradients. The inner
    problem, there SLSQP's, is solved by `solvers.conflict_averse`. Where g_w is 0 the update is g_0's alone.

    Args:
        tasks: names, in the order of the losses.
        c: radius of the ball, in lengths of the mean gradient.
        rescale: divide by nothing, by 1 + c^2 (the authors' choice) or by 1 + c.
        times_tasks: whether to multiply by the number of tasks that are present.
        shared: which parameters the method acts on; see `mtan_jax.weighting.gradients.weighted`.
        backward: "together" or "one_by_one"; see there.

    Raises:
        ValueError: an option is out of its range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import cagrad
        >>> tx = optax.chain(cagrad(("semantic", "depth")), optax.adam(1e-4))
    """
    check_number("cagrad", "c", c, least=0)
    divisors = {"none": 1.0, "squared": 1 + c**2, "linear": 1 + c}
    if rescale not in divisors:
        raise ValueError(f"cagrad rescale is {rescale!r}: one of {', '.join(divisors)} is needed")

    def weigh(stack: Stack, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        gram = unit_size(stack.gram)
        count = jnp.maximum(stack.present.sum(), 1)
        mean = stack.present / count
        w = conflict_averse(gram, stack.present, c)
        square = w @ gram @ w
        there = square > 1e-12
        ratio = jnp.sqrt(jnp.maximum(mean @ gram @ mean, 0) / jnp.where(there, square, 1))
        weights = mean + jnp.where(there, c * ratio, 0) * w
        return weights * (count if times_tasks else 1) / divisors[rescale], state

    return weighted("cagrad", tasks, optax.EmptyState, weigh, shared=shared, backward=backward)
