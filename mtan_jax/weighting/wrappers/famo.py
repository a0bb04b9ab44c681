"""Fast adaptive multitask optimization."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from mtan_jax.weighting.core import TaskGradients, check_updates
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.numerics import nan_if_negative, softmax_over, update_where
from mtan_jax.weighting.option_checks import check_number, check_tasks, check_weight, in_task_order
from mtan_jax.weighting.update_checks import check_optimizer

_SMALLEST = 1e-8


class FAMOState(NamedTuple):
    """State of `famo`.

    Attributes:
        logits: v, whose softmax is z.
        adam: Adam's moments of the logits, and per task the number of steps at which it was present.
        inner: state of the rest of the chain.
    """

    logits: Float[Array, "t"]
    adam: optax.ScaleByAdamState
    inner: optax.OptState


@declare("wrapper")
def famo(
    tasks: Sequence[str],
    inner: optax.GradientTransformation,
    *,
    weight_rate: float = 0.025,
    decay: float = 0.001,
    least_losses: Mapping[str, float] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Fast adaptive multitask optimization (FAMO; Liu, Feng, Stone, Liu, NeurIPS 2023): losses fall at equal rates.

    Equation: w_i = z_i / (D_i c), z = softmax(v), D_i = L_i - b_i + 1e-8, c = sum_i z_i / D_i (algorithm 1). After the
    step, v takes one Adam step, with decay, along the derivative of sum_i z_i (log D_i - log D'_i). D' is D at the new
    parameters, on the same batch. A task whose loss fell less than the others' gets more weight. Each step costs one
    extra forward pass and no extra backward pass.

    The method wraps the rest of the chain, whose updates give the new parameters. It does not see changes made outside
    of it. The authors' code clips the gradient of the shared parameters to a norm of 1; `optax.clip_by_global_norm`
    clips that of all parameters. An absent task keeps its logit.

    Args:
        tasks: task names.
        inner: the rest of the chain, from `TaskGradients` to updates: `optax.chain(sum_tasks(tasks), ...)`.
        weight_rate: learning rate of v.
        decay: weight decay of v, added to its gradient; the authors use 0.001 (NYUv2) and 0.01 (Cityscapes).
        least_losses: b, a lower bound of each task's loss; None: 0.

    Raises:
        ValueError: an option is out of range; at `init`, the rest of the chain has no optimizer; or, at the first step,
            there are no losses at other parameters.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import famo, sum_tasks
        >>> tasks = ("semantic", "depth")
        >>> tx = famo(tasks, optax.chain(sum_tasks(tasks), optax.adam(1e-4)))
    """
    tasks = check_tasks(tasks)
    weight_rate = check_number("famo", "weight_rate", weight_rate, least=0)
    decay = check_number("famo", "decay", decay, least=0)
    given = least_losses if least_losses is not None else dict.fromkeys(tasks, 0.0)
    values = in_task_order("famo least_losses", tasks, given)
    least = tuple(check_weight("famo least", task, value) for task, value in zip(tasks, values, strict=True))
    adam = optax.scale_by_adam()
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> FAMOState:
        logits = jnp.zeros(len(tasks), jnp.float32)
        inner_state = inner.init(params)
        check_optimizer("famo", inner_state)
        return FAMOState(logits, jax.vmap(adam.init)(logits), inner_state)

    def update(
        updates: TaskGradients, state: FAMOState, params: optax.Params | None = None, **extra_args: object
    ) -> tuple[optax.Updates, FAMOState]:
        task_gradients = check_updates(updates, tasks, "famo")
        if params is None or task_gradients.losses_at is None:
            raise ValueError("famo needs the parameters, as tx.update(..., params), and TaskGradients.losses_at")
        present = jnp.asarray(task_gradients.present)

        def distance(losses: Float[Array, "t"]) -> Float[Array, "t"]:
            above = lax.stop_gradient(task_gradients.weights * losses) - jnp.asarray(least, losses.dtype)
            return jnp.maximum(above.astype(jnp.float32), 0) + _SMALLEST

        before = distance(task_gradients.losses)
        shares = softmax_over(present, state.logits)
        weights = jnp.where(present, shares / before, 0)
        weights = weights / jnp.where(present.any(), weights.sum(), 1)
        weights = nan_if_negative(weights, task_gradients.weights * task_gradients.losses, present)
        steps, new_inner = inner.update(task_gradients.scale(weights), state.inner, params, **extra_args)
        after = distance(task_gradients.losses_at(optax.apply_updates(params, steps)))
        fall = jnp.where(present, jnp.log(before / after), 0)
        slope = shares * (fall - shares @ fall) + decay * state.logits
        direction, new_adam = jax.vmap(adam.update)(slope, state.adam)
        logits, new_adam = update_where(
            present, (state.logits - weight_rate * direction, new_adam), (state.logits, state.adam)
        )
        return steps, FAMOState(logits, new_adam, new_inner)

    return optax.GradientTransformationExtraArgs(init, update)
