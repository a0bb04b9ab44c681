"""Multi-objective meta-learning."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.runtime import collectives
from mtan_jax.weighting.core import TaskGradients, check_updates
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.numerics import softmax_over, update_where
from mtan_jax.weighting.option_checks import check_choice, check_number, check_tasks
from mtan_jax.weighting.solvers import min_norm
from mtan_jax.weighting.stack import inner_products
from mtan_jax.weighting.update_checks import check_second_batch

# A combination of derivatives this short, relative to the longest of them, counts as 0.
_STATIONARY = 1e-4


class MOMLState(NamedTuple):
    """State of `moml`.

    Attributes:
        logits: alpha, whose softmax weights the losses.
        adam: Adam's moments of the logits, and per task the number of steps at which its logit was learned.
        inner: state of the rest of the chain.
    """

    logits: Float[Array, "t"]
    adam: optax.ScaleByAdamState
    inner: optax.OptState


@declare("wrapper", second_batch=True)
def moml(
    tasks: Sequence[str],
    inner: optax.GradientTransformation,
    *,
    meta_rate: float = 1e-3,
    virtual_rate: float = 0.1,
    combine: Literal["mgda", "sum"] = "mgda",
) -> optax.GradientTransformationExtraArgs:
    """Multi-objective meta-learning (MOML; Ye, Lin, Yue et al., NeurIPS 2021): learns weights by bilevel optimization.

    Equation: with w = softmax(alpha), one step of plain gradient descent leads from the parameters p to

        p'(alpha) = p - virtual_rate d/dp sum_i w_i L_i(p)

    The objectives of alpha are the losses L'_1(p'), ..., L'_K(p') of a second batch. Their derivatives are the rows of

        A = -virtual_rate G' G^T J

    where G and G' hold the gradients dL_i/dp(p) and dL'_j/dp(p'), one row per task, and J is the derivative of the
    softmax. alpha takes one Adam step along the shortest convex combination of the rows ("mgda") or along their sum
    ("sum"). The real step then starts from p with the new weights. The losses include the weights of the methods before
    this one.

    This is the efficient form in the code of FORUM, by the same authors. There and in MOML's own code, the real step is
    computed on other data than the virtual one: on both batches together, or on a third batch. Here it is computed on
    the first batch. MOML's own code divides the rows of A by their norms to find the weights of the combination. Both
    codes solve for it approximately. Here it is exact, and a combination shorter than 1e-4 of the longest row counts as
    0: alpha is then Pareto-stationary, and Adam would magnify the rounding error.

    Each step costs K backward passes of each batch, and two gradients per task in memory.

    An absent task keeps its logit and its moments, and the softmax is over the others. A task without a label in the
    second batch is no objective. If none has one, no logit changes.

    Args:
        tasks: task names.
        inner: the rest of the chain, from `TaskGradients` to updates: `optax.chain(sum_tasks(tasks), optax.sgd(0.1))`.
        meta_rate: learning rate of alpha.
        virtual_rate: learning rate of the virtual step; 0.1 is the default of FORUM's code, and MOML's code uses the
            network's, 1e-4.
        combine: "mgda" or "sum".

    Raises:
        ValueError: an option is out of range, or, at the first step, there is no second batch.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import moml, sum_tasks
        >>> tasks = ("semantic", "depth")
        >>> tx = moml(tasks, optax.chain(sum_tasks(tasks), optax.adam(1e-4)))
    """
    tasks = check_tasks(tasks)
    meta_rate = check_number("moml", "meta_rate", meta_rate, least=0)
    virtual_rate = check_number("moml", "virtual_rate", virtual_rate, above=0)
    check_choice("moml", "combine", combine, ("mgda", "sum"))
    inner = optax.with_extra_args_support(inner)
    # One Adam per task, so that steps at which a task is absent do not change its moments.
    adam = optax.scale_by_adam()

    def init(params: optax.Params) -> MOMLState:
        # All equal; the authors' initial value, 1 / K, gives the same weights.
        logits = jnp.zeros(len(tasks), jnp.float32)
        return MOMLState(logits, jax.vmap(adam.init)(logits), inner.init(params))

    def update(
        updates: TaskGradients, state: MOMLState, params: optax.Params | None = None, **extra_args: object
    ) -> tuple[optax.Updates, MOMLState]:
        task_gradients = check_updates(updates, tasks, "moml")
        check_second_batch("moml", task_gradients, params)
        present = jnp.asarray(task_gradients.present)
        shares = softmax_over(present, state.logits)
        rows = -virtual_rate * jax.lax.stop_gradient(_products(task_gradients, shares, virtual_rate, params))
        # The derivative of the softmax, diag(w) - w w'.
        rows = rows * shares[None] - (rows @ shares)[:, None] * shares[None]
        meta_gradient = _combination(rows, combine).astype(state.logits.dtype)
        direction, new_adam = jax.vmap(adam.update)(meta_gradient, state.adam)
        learned = present & (jnp.abs(rows) > 0).any()
        logits, new_adam = update_where(
            learned, (state.logits - meta_rate * direction, new_adam), (state.logits, state.adam)
        )
        weights = softmax_over(present, logits)
        steps, inner_state = inner.update(task_gradients.scale(weights), state.inner, params, **extra_args)
        return steps, MOMLState(logits, new_adam, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _products(
    task_gradients: TaskGradients, shares: Float[Array, "t"], rate: float, params: optax.Params
) -> Float[Array, "t t"]:
    """G' G^T: the inner products of the second batch's gradients after the virtual step with the first batch's."""
    weights = task_gradients.weights
    gradients = jax.vmap(task_gradients.gradient)(jnp.diag(weights))

    def descend(p: Array, rows: Float[Array, "t ..."]) -> Array:
        return (p - rate * jnp.tensordot(shares.astype(rows.dtype), rows, 1)).astype(p.dtype)

    virtual = jax.tree.map(descend, params, gradients)
    _, pullback = jax.vjp(task_gradients.second_losses_at, virtual)  # type: ignore[arg-type]
    second = jax.vmap(lambda cotangent: pullback(cotangent)[0])(jnp.diag(weights))
    second = collectives.mean(second, task_gradients.axis_name)  # as in `TaskGradients.gradient`
    return inner_products(jax.tree.leaves(second), jax.tree.leaves(gradients))


def _combination(rows: Float[Array, "t t"], combine: Literal["mgda", "sum"]) -> Float[Array, "t"]:
    if combine == "sum":
        return rows.sum(0)
    # Compute with the longest row at unit length, so that squares neither overflow nor vanish.
    largest = jnp.abs(rows).max()
    scaled = rows / jnp.where(largest > 0, largest, 1)
    norms = jnp.linalg.norm(scaled, axis=1)
    shortest = min_norm(scaled @ scaled.T, norms > 0) @ scaled
    return jnp.where(jnp.linalg.norm(shortest) > _STATIONARY * norms.max(), shortest * largest, 0)
