"""Random loss weighting."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32

from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.option_checks import check_choice, check_count, check_tasks


class RLWState(NamedTuple):
    """State of `rlw`.

    Attributes:
        steps: steps so far; this number and the seed determine the random weights.
    """

    steps: Int32[Array, ""]


@declare("balancer")
def rlw(
    tasks: Sequence[str], *, distribution: Literal["normal", "dirichlet"] = "normal", seed: int = 0
) -> optax.GradientTransformationExtraArgs:
    """Random loss weighting (RLW; Lin, Ye, Zhang, Tsang, TMLR 2022): draws new weights at each step.

    Equation: w = softmax(z) with z from the standard normal distribution, or w from the flat Dirichlet distribution.
    The weights sum to 1 in both cases.

    Args:
        tasks: task names.
        distribution: "normal" (the authors' choice) or "dirichlet".
        seed: seed of the random weights, at least 0.

    Raises:
        ValueError: an option is unknown or out of range, no task, or a repeated name.

    Example:
        >>> from mtan_jax.weighting import rlw
        >>> tx = rlw(("semantic", "depth"), distribution="dirichlet")
    """
    tasks = check_tasks(tasks)
    check_choice("rlw", "distribution", distribution, ("normal", "dirichlet"))
    seed = check_count("rlw", "seed", seed, least=0)

    def init() -> RLWState:
        return RLWState(jnp.zeros((), jnp.int32))

    def step(task_gradients: TaskGradients, state: RLWState) -> tuple[Float[Array, "t"], RLWState]:
        del task_gradients
        key = jax.random.fold_in(jax.random.key(seed), state.steps)
        if distribution == "normal":
            weights = jax.nn.softmax(jax.random.normal(key, (len(tasks),)))
        else:
            weights = jax.random.dirichlet(key, jnp.ones(len(tasks)))
        return weights, RLWState(optax.safe_increment(state.steps))

    return balancer("rlw", tasks, init, step)
