"""Dynamic task prioritization."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from mtan_jax.weighting.core import TaskGradients, balancer, check_number, check_tasks
from mtan_jax.weighting.declaration import declare

# What k counts as at least: a weight is at most 46.
_SMALLEST = 1e-20


class DTPState(NamedTuple):
    """State of `dtp`.

    Attributes:
        averages: k.
        known: whether a task has had an indicator yet.
    """

    averages: Float[Array, "t"]
    known: Bool[Array, "t"]


@declare("balancer", indicators=True)
def dtp(
    tasks: Sequence[str], *, gamma: float | Mapping[str, float] = 1.0, alpha: float = 0.1
) -> optax.GradientTransformationExtraArgs:
    """Dynamic task prioritization: more weight for what is done badly (Guo, Haque, Huang, Yeung, Fei-Fei, ECCV 2018).

    Equation: w_i = -(1 - k_i)^gamma_i log k_i, a focal weight at the level of tasks, with k_i the average over the
    steps of the task's key performance indicator, k <- alpha * indicator + (1 - alpha) * k, that of this step
    included. The first indicator is the first average.

    The indicators are `TaskGradients.indicators`, from 0 to 1, measured on the batch that is trained on; those of the
    library's own tasks are in `mtan_jax.tasks.indicators`. The paper's focal loss of single examples is left out.
    No code of the authors is public; the code of Yun and Cho (ICCV 2023) has the same weights out of indicators of the
    validation split once an epoch, with alpha = 0.1, gamma = 1 by default and 0.5 recommended.

    A task that is done perfectly has weight 0, and one that is not done at all the weight of k = 1e-20, which is 46.
    At a step where a task is absent its k stays as it is. Where a task is present and nothing is known of it its weight
    is NaN, which stops training: it has no indicator.

    Args:
        tasks: names, in the order of the losses.
        gamma: focus on what is done badly, at least 0; one for all tasks, or one a task by name.
        alpha: share of the newest indicator in the average, above 0 and at most 1.

    Raises:
        ValueError: an option is out of its range, or the step has no indicators.

    Example:
        >>> from mtan_jax.weighting import dtp
        >>> tx = dtp(("semantic", "depth"), gamma=0.5)
        >>> tx = dtp(("semantic", "depth"), gamma={"semantic": 1.0, "depth": 2.0})
    """
    tasks = check_tasks(tasks)
    by_task = gamma if isinstance(gamma, Mapping) else dict.fromkeys(tasks, gamma)
    if set(by_task) != set(tasks):
        raise ValueError(f"dtp gamma is for {sorted(by_task)}: one for each of {list(tasks)} is needed, or one number")
    for task, power in by_task.items():
        check_number("dtp", f"gamma of {task!r}", power, least=0)
    powers = np.array([by_task[task] for task in tasks], np.float32)
    if not 0 < alpha <= 1:
        raise ValueError(f"dtp alpha is {alpha}: a number above 0 and at most 1 is needed")

    def init() -> DTPState:
        return DTPState(jnp.zeros(len(tasks), jnp.float32), jnp.zeros(len(tasks), bool))

    def step(task_gradients: TaskGradients, state: DTPState) -> tuple[Float[Array, "t"], DTPState]:
        if task_gradients.indicators is None:
            raise ValueError(
                "dtp needs to know how well each task is done: TaskGradients.indicators is None; make_train_step fills "
                "it in from Task.indicator"
            )
        news = task_gradients.indicators.astype(state.averages.dtype)
        is_new = task_gradients.present & ~jnp.isnan(news)
        averages = jnp.where(state.known, alpha * news + (1 - alpha) * state.averages, news)
        averages = jnp.where(is_new, averages, state.averages)
        known = state.known | is_new
        k = jnp.clip(averages, _SMALLEST, 1.0)
        weights = -((1 - k) ** powers) * jnp.log(k)
        unknown = jnp.where(task_gradients.present, jnp.nan, 1.0)
        return jnp.where(known, weights, unknown), DTPState(averages, known)

    return balancer("dtp", tasks, init, step)
