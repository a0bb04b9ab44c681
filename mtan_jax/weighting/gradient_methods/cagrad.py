"""Conflict-averse gradient descent."""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.weighting.backward import Backward
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import weighted
from mtan_jax.weighting.option_checks import check_choice, check_number
from mtan_jax.weighting.shared_parameters import Shared
from mtan_jax.weighting.solvers import conflict_averse, unit_size
from mtan_jax.weighting.stack import Stack


@declare("gradient_method")
def cagrad(
    tasks: Sequence[str],
    *,
    c: float = 0.4,
    rescale: Literal["none", "squared", "linear"] = "squared",
    times_tasks: bool = True,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    r"""Conflict-averse gradient descent (CAGrad; Liu, Liu, Jin, Stone, Liu, NeurIPS 2021).

    Equation: of all vectors within distance c |g_0| of the mean gradient g_0, the update maximizes the smallest
    decrease of any task's loss. It is g_0 + c |g_0| / |g_w| g_w, where w is the argmin over the simplex of
    <g_w, g_0> + c |g_0| |g_w|, with g_w = sum_i w_i g_i (algorithm 1). With c >= 1 it conflicts with no task. The
    authors' code divides the update by 1 + c^2, and their multi-task runs multiply it by the number of tasks, which
    gives it the size of the sum of the gradients. `solvers.conflict_averse` solves the inner problem; the authors use
    SLSQP. If g_w is 0, the update is that of g_0 alone.

    Args:
        tasks: task names.
        c: radius of the ball, relative to the norm of the mean gradient.
        rescale: divisor of the update: 1 ("none"), 1 + c^2 ("squared", the authors' choice) or 1 + c ("linear").
        times_tasks: whether to multiply by the number of present tasks.
        shared: the parameters that the method acts on; see `mtan_jax.weighting.gradients.combined`.
        backward: "together", "one_by_one" or "gram"; see `mtan_jax.weighting.gradients.weighted`.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import cagrad
        >>> tx = optax.chain(cagrad(("semantic", "depth")), optax.adam(1e-4))
    """
    c = check_number("cagrad", "c", c, least=0)
    divisors = {"none": 1.0, "squared": 1 + c**2, "linear": 1 + c}
    check_choice("cagrad", "rescale", rescale, tuple(divisors))

    def weigh(stack: Stack, state: optax.EmptyState) -> tuple[Float[Array, "t"], optax.EmptyState]:
        gram = unit_size(stack.gram)
        count = jnp.maximum(stack.present.sum(), 1)
        mean = stack.present / count
        w = conflict_averse(gram, stack.present, c)
        square = w @ gram @ w
        is_nonzero = square > 1e-12
        ratio = jnp.sqrt(jnp.maximum(mean @ gram @ mean, 0) / jnp.where(is_nonzero, square, 1))
        weights = mean + jnp.where(is_nonzero, c * ratio, 0) * w
        return weights * (count if times_tasks else 1) / divisors[rescale], state

    return weighted("cagrad", tasks, optax.EmptyState, weigh, shared=shared, backward=backward)
