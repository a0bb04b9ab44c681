"""Loss discrepancy control."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32

from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.numerics import SMALLEST_LOSS, nan_if_negative, update_where
from mtan_jax.weighting.option_checks import check_choice, check_number, check_tasks

_INITIAL_LOGIT = 1.0
Normalize = Literal["none", "initial", "log"]


class LDCMTLState(NamedTuple):
    """State of `ldc_mtl`.

    Attributes:
        steps: steps so far, for the learning rate.
        logits: s, whose sigmoid weights the losses.
        adam: Adam's moments of s, and per task the number of steps at which it was present.
        first: the first loss of each task; 0 before it.
    """

    steps: Int32[Array, ""]
    logits: Float[Array, "t"]
    adam: optax.ScaleByAdamState
    first: Float[Array, "t"]


@declare("balancer")
def ldc_mtl(
    tasks: Sequence[str],
    *,
    penalty: float = 0.01,
    normalize: Normalize = "none",
    learning_rate: float | optax.Schedule | None = None,
    logit_rate: float | optax.Schedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Loss discrepancy control (LDC-MTL; Xiao, Dong, Zou, Ji, arXiv:2502.08585, 2025): keeps weighted losses close.

    Equation, as in the authors' code: with c_i = sigmoid(s_i), the network and s minimize together the total loss

        sum_i c_i l_i / sum_i c_i + penalty sum_i |c_i l_i - c_(i+1) l_(i+1)|

    The first sum is the lower level of a bilevel problem, and the second, over neighbors in the order of the tasks, the
    upper one. l_i is the normalized loss. w_i is the derivative of the total loss with respect to L_i, at the s before
    this step. s starts at 1 and takes one Adam step along its derivative, for which sum_i c_i is a constant.

    The authors' scripts differ. Those for CelebA and QM9 have one s per task, as here, and `normalize` "none" and
    "log". QM9's passes a random initial s through a ReLU, and measures the first losses anew in each epoch. Those for
    NYUv2 ("initial") and Cityscapes ("none") replace s by a layer on the network's features and the sigmoid by a
    softmax clipped to [0.2, 0.8], and Cityscapes' penalty omits c; a loss balancer sees no features, so these are left
    out.

    A weight can be negative if the penalty is larger than 1 / (2 K) for K tasks. An absent task keeps its s and its
    moments, and has weight 0; its neighbors count as neighbors of each other. The result depends on the order of the
    tasks, as the equation does.

    Args:
        tasks: task names, in the order of the losses, which is also the order of the neighbors.
        penalty: factor of the differences; the authors use 0.01 (CelebA), 0.05 (NYUv2, QM9) and 0.1 (Cityscapes).
        normalize: l_i is L_i ("none"), L_i min_j F_j / F_i ("initial") or log(L_i / F_i) ("log"), with F the losses of
            the first step. In that step all l_i are equal, and the penalty has no derivative: it counts as 0.
        learning_rate: the network's learning rate, constant or a function of the step.
        logit_rate: learning rate of s; None: the network's.

    Raises:
        ValueError: no rate, or an option is out of range.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import ldc_mtl, sum_tasks
        >>> tasks = ("semantic", "depth")
        >>> tx = optax.chain(ldc_mtl(tasks, learning_rate=1e-4), sum_tasks(tasks), optax.adam(1e-4))
    """
    tasks = check_tasks(tasks)
    penalty = check_number("ldc_mtl", "penalty", penalty, least=0)
    check_choice("ldc_mtl", "normalize", normalize, ("none", "initial", "log"))
    rate = learning_rate if logit_rate is None else logit_rate
    if rate is None:
        raise ValueError("ldc_mtl has no learning rate; pass learning_rate or logit_rate")
    if not callable(rate):
        rate = check_number("ldc_mtl", "rate", rate, least=0)
    # One Adam per task, so that steps at which a task is absent do not change its moments.
    adam = optax.scale_by_adam()

    def init() -> LDCMTLState:
        logits = jnp.full(len(tasks), _INITIAL_LOGIT, jnp.float32)
        return LDCMTLState(jnp.zeros((), jnp.int32), logits, jax.vmap(adam.init)(logits), jnp.zeros_like(logits))

    def step(task_gradients: TaskGradients, state: LDCMTLState) -> tuple[Float[Array, "t"], LDCMTLState]:
        present = jnp.asarray(task_gradients.present)
        given = task_gradients.weights * task_gradients.losses
        losses = jnp.where(present, jnp.maximum(given, SMALLEST_LOSS), 1)
        first = jnp.where(present & (state.first == 0), losses, state.first).astype(state.first.dtype)

        def total(logits: Float[Array, "t"], losses: Float[Array, "t"]) -> Float[Array, ""]:
            weights = jnp.where(present, jax.nn.sigmoid(logits), 0)
            weighted = weights * _normalized(losses, first, normalize)
            mean = weighted.sum() / jax.lax.stop_gradient(jnp.where(present.any(), weights.sum(), 1))
            differences = _differences(weighted, present)
            # Their absolute values; jnp.abs has the derivative 1 at 0.
            return mean + penalty * (jax.lax.stop_gradient(jnp.sign(differences)) * differences).sum()

        by_logit, by_loss = jax.grad(total, argnums=(0, 1))(state.logits.astype(losses.dtype), losses)
        direction, new_adam = jax.vmap(adam.update)(by_logit.astype(state.logits.dtype), state.adam)
        step_size = jnp.asarray(rate(state.steps) if callable(rate) else rate, state.logits.dtype)
        logits, new_adam = update_where(
            present, (state.logits - step_size * direction, new_adam), (state.logits, state.adam)
        )
        new = LDCMTLState(optax.safe_increment(state.steps), logits, new_adam, first)
        return nan_if_negative(by_loss, given, present), new

    return balancer("ldc_mtl", tasks, init, step)


def _normalized(losses: Float[Array, "t"], first: Float[Array, "t"], normalize: Normalize) -> Float[Array, "t"]:
    if normalize == "none":
        return losses
    seen = first > 0
    at_first = jnp.where(seen, first, 1).astype(losses.dtype)
    if normalize == "log":
        return jnp.log(losses / at_first)
    least = jnp.where(seen.any(), jnp.where(seen, at_first, jnp.inf).min(), 1)
    return losses / at_first * least


def _differences(values: Float[Array, "t"], present: Bool[Array, "t"]) -> Float[Array, "t-1"]:
    """The differences between each present task and the next present one; 0 for the rest."""
    order = jnp.argsort(~present)  # stable: the present tasks come first, in their order
    values, present = values[order], present[order]
    return jnp.where(present[1:], values[:-1] - values[1:], 0)
