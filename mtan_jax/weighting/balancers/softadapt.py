"""SoftAdapt."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32

from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.numerics import LARGEST_EXPONENT, nan_if_negative
from mtan_jax.weighting.option_checks import check_choice, check_count, check_number, check_tasks


class SoftAdaptState(NamedTuple):
    """State of `softadapt`.

    Attributes:
        steps: steps so far.
        history: the last points of each task, oldest first.
        points: number of points so far.
        loss_sum: sum of the losses of the current point.
        loss_count: number of steps in this sum.
    """

    steps: Int32[Array, ""]
    history: Float[Array, "n t"]
    points: Int32[Array, "t"]
    loss_sum: Float[Array, "t"]
    loss_count: Float[Array, "t"]


@declare("balancer")
def softadapt(
    tasks: Sequence[str],
    *,
    variant: Literal["plain", "loss_weighted", "normalized"] = "loss_weighted",
    beta: float = 0.1,
    points: int = 5,
    steps_per_point: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """SoftAdapt (Heydari, Thompson, Mehmood, 2019): more weight for the tasks whose losses fall least.

    Equation: w = softmax(beta s), with s_i the rate of change of loss i. The variants of sections 3.1.1 to 3.1.3:

    - "plain": as above.
    - "loss_weighted": w_i = f_i exp(beta s_i) / sum_j f_j exp(beta s_j), with f_i the mean of the points.
    - "normalized": s is divided by its sum over the tasks. As in the authors' code, this is the signed sum. It is
      negative if most losses fall, and then the loss that falls fastest has the largest weight. If it is 0, the weights
      are equal.

    s_i is the finite difference of order `points` - 1 over the last `points` points, including the current step. The
    authors' code uses the forward difference: s_i is the slope at the oldest point. With `points=2` it is the last
    loss minus the one before. A point is the mean loss over `steps_per_point` steps. The weights sum to 1. They are 1
    each until every task of the batch has enough points. The authors' code adds 1e-8 to the denominator, which is left
    out here; their example recomputes the weights after every 5 epochs, and this method after every point.

    The method reads the unweighted losses. Absent tasks have weight 0 and keep their points.

    Args:
        tasks: task names.
        variant: "plain", "loss_weighted" (recommended by the authors) or "normalized".
        beta: sharpness; a negative value prefers the tasks whose losses fall fastest. The authors' default.
        points: length of the history; 5 in the authors' example.
        steps_per_point: steps over which losses are averaged to one point, such as those of an epoch.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> from mtan_jax.weighting import softadapt
        >>> tx = softadapt(("semantic", "depth"), variant="plain", steps_per_point=397)
    """
    tasks = check_tasks(tasks)
    check_choice("softadapt", "variant", variant, ("plain", "loss_weighted", "normalized"))
    beta = check_number("softadapt", "beta", beta)
    points = check_count("softadapt", "points", points, least=2)
    steps_per_point = check_count("softadapt", "steps_per_point", steps_per_point, least=1)
    coefficients = forward_difference(points - 1)

    def init() -> SoftAdaptState:
        count = len(tasks)
        return SoftAdaptState(
            steps=jnp.zeros((), jnp.int32),
            history=jnp.zeros((points, count), jnp.float32),
            points=jnp.zeros(count, jnp.int32),
            loss_sum=jnp.zeros(count, jnp.float32),
            loss_count=jnp.zeros(count, jnp.float32),
        )

    def step(task_gradients: TaskGradients, state: SoftAdaptState) -> tuple[Float[Array, "t"], SoftAdaptState]:
        present = task_gradients.present
        losses = jnp.where(present, task_gradients.losses, 0).astype(jnp.float32)
        loss_sum, loss_count = state.loss_sum + losses, state.loss_count + present
        steps = optax.safe_increment(state.steps)
        ends = steps % steps_per_point == 0
        is_new = ends & (loss_count > 0)
        moved = jnp.concatenate([state.history[1:], (loss_sum / jnp.maximum(loss_count, 1))[None]])
        history = jnp.where(is_new, moved, state.history)
        counts = jnp.where(is_new, jnp.minimum(state.points + 1, points), state.points)
        new = SoftAdaptState(steps, history, counts, jnp.where(ends, 0, loss_sum), jnp.where(ends, 0, loss_count))
        ready = ((counts >= points) | ~present).all()
        factors = jnp.where(ready, weigh(history, present), present)
        return nan_if_negative(factors, losses, present) if variant == "loss_weighted" else factors, new

    def weigh(history: Float[Array, "n t"], present: Array) -> Float[Array, "t"]:
        # The coefficients sum to 0, so an offset has no effect except on rounding.
        slopes = jnp.where(present, jnp.asarray(coefficients, history.dtype) @ (history - history[:1]), 0)
        if variant == "normalized":
            total = slopes.sum()
            slopes = jnp.where(total == 0, 0, slopes / jnp.where(total == 0, 1, total))
        exponents = jnp.clip(beta * slopes, -LARGEST_EXPONENT, LARGEST_EXPONENT)
        if variant == "loss_weighted":
            means = history.mean(0)
            exponents += jnp.where(means > 0, jnp.log(jnp.where(means > 0, means, 1)), -LARGEST_EXPONENT)
        return jnp.where(present, jax.nn.softmax(jnp.where(present, exponents, -jnp.inf)), 0)

    return balancer("softadapt", tasks, init, step)


def forward_difference(order: int) -> Float[np.ndarray, "n"]:
    """The coefficients of the forward difference of a given order for the first derivative, with unit spacing.

    c_0 = -sum_j 1/j and c_j = (-1)^(j+1) binomial(order, j) / j for j = 1 to `order`: the derivative at 0 of the
    polynomial through the points 0 to `order`.
    """
    rest = [(-1) ** (j + 1) * math.comb(order, j) / j for j in range(1, order + 1)]
    return np.array([-sum(rest), *rest])
