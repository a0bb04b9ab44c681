"""Dynamic task prioritization."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.option_checks import check_number, check_tasks

# Lower bound of k, so that a weight is at most 46.
_SMALLEST = 1e-20


class DTPState(NamedTuple):
    """State of `dtp`.

    Attributes:
        averages: running average k of the indicators.
        known: whether a task has had an indicator yet.
    """

    averages: Float[Array, "t"]
    known: Bool[Array, "t"]


@declare("balancer", indicators=True)
def dtp(
    tasks: Sequence[str], *, gamma: float | Mapping[str, float] = 1.0, alpha: float = 0.1
) -> optax.GradientTransformationExtraArgs:
    """Dynamic task prioritization (Guo, Haque, Huang, Yeung, Fei-Fei, ECCV 2018): more weight for poor performance.

    Equation: w_i = -(1 - k_i)^gamma_i log k_i, a focal weight at the task level. k_i is the running average of the
    task's key performance indicator, k <- alpha * indicator + (1 - alpha) * k, including the current step. It starts at
    the first indicator.

    The indicators are `TaskGradients.indicators`, from 0 to 1, measured on the training batch;
    `mtan_jax.tasks.indicators` has those of the built-in tasks. The paper's focal loss per example is not part of this
    method. The authors published no code. The code of Yun and Cho (ICCV 2023) computes the same weights from indicators
    of the validation split once per epoch, with alpha = 0.1 and gamma = 1 by default and gamma = 0.5 recommended.

    A task with perfect performance has weight 0. One with indicator 0 has the weight of k = 1e-20, which is 46. An
    absent task keeps its k. A present task that has never had an indicator gets the weight NaN, which stops training.

    Args:
        tasks: task names.
        gamma: focusing exponent, at least 0; one for all tasks, or a mapping from task to exponent.
        alpha: weight of the current indicator in the average, above 0 and at most 1.

    Raises:
        ValueError: an option is out of range, or the step has no indicators.

    Example:
        >>> from mtan_jax.weighting import dtp
        >>> tx = dtp(("semantic", "depth"), gamma=0.5)
        >>> tx = dtp(("semantic", "depth"), gamma={"semantic": 1.0, "depth": 2.0})
    """
    tasks = check_tasks(tasks)
    by_task = gamma if isinstance(gamma, Mapping) else dict.fromkeys(tasks, gamma)
    if set(by_task) != set(tasks):
        raise ValueError(f"dtp gamma is given for {sorted(by_task)}; expected exactly {list(tasks)}, or one number")
    powers = np.array([check_number("dtp", f"gamma of {task!r}", by_task[task], least=0) for task in tasks], np.float32)
    alpha = check_number("dtp", "alpha", alpha, above=0, most=1)

    def init() -> DTPState:
        return DTPState(jnp.zeros(len(tasks), jnp.float32), jnp.zeros(len(tasks), bool))

    def step(task_gradients: TaskGradients, state: DTPState) -> tuple[Float[Array, "t"], DTPState]:
        if task_gradients.indicators is None:
            raise ValueError(
                "dtp needs performance indicators, but TaskGradients.indicators is None; pass indicators to "
                "task_gradients, or for make_train_step, give every task a Task.indicator"
            )
        current = task_gradients.indicators.astype(state.averages.dtype)
        is_new = task_gradients.present & ~jnp.isnan(current)
        averages = jnp.where(state.known, alpha * current + (1 - alpha) * state.averages, current)
        averages = jnp.where(is_new, averages, state.averages)
        known = state.known | is_new
        k = jnp.clip(averages, _SMALLEST, 1.0)
        weights = -((1 - k) ** powers) * jnp.log(k)
        unknown = jnp.where(task_gradients.present, jnp.nan, 1.0)
        return jnp.where(known, weights, unknown), DTPState(averages, known)

    return balancer("dtp", tasks, init, step)
