"""Multi-objective gradient with double sampling."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtan_jax.runtime import collectives
from mtan_jax.weighting.core import check_updates
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.option_checks import check_number, check_tasks
from mtan_jax.weighting.solvers import project_to_simplex
from mtan_jax.weighting.update_checks import check_second_batch
from mtan_jax.weighting.wrappers.auto_lambda import exact_slopes


class MoDoState(NamedTuple):
    """State of `modo`.

    Attributes:
        weights: lambda, the weights of the last step; 1 / K before the first.
        inner: state of the rest of the chain.
    """

    weights: Float[Array, "t"]
    inner: optax.OptState


@declare("wrapper", second_batch=True)
def modo(
    tasks: Sequence[str], inner: optax.GradientTransformation, *, gamma: float = 1e-3, rho: float = 0.1
) -> optax.GradientTransformationExtraArgs:
    """Multi-objective gradient with double sampling (MoDo; Chen, Fernando, Ying, Chen, NeurIPS 2023 and JMLR 2024).

    Equation: lambda <- P(lambda - gamma (G1 G2' + rho I) lambda), with the projection P onto the simplex. The rows of
    G1 and G2 are the task gradients of two independent batches, so G1 G2' lambda is an unbiased estimate of the
    gradient of |sum_i lambda_i g_i|^2 / 2. The update is sum_i lambda_i (g1_i + g2_i) / 2 with the new lambda (JMLR,
    equation 2.9).

    Of the published variants, this is the one with two batches per step. The authors' code for it adds the gradients
    of both batches without dividing by 2. LibMTL takes the update from a third batch. It computes G1 and G2 from the
    shared parameters only, and gives the heads the plain gradient; here, as in the paper, all parameters count and all
    are trained on the weighted losses.

    G1 G2' lambda takes no backward pass per task: it is the derivative of the first batch's losses along G2' lambda. A
    step costs a forward pass and two backward passes of the second batch, and differentiates the first batch's
    backward pass once, for any number of tasks. The second batch must also be loaded.

    The rest of the chain receives the mean gradient of both batches. The losses, and gradients with respect to
    features, are those of the first batch. Weights of the methods before this one are part of the losses.

    A task that is absent from the first batch keeps its lambda and does not contribute. The others start from the
    projection of their lambdas onto their simplex. A task that is absent from the second batch only, with a loss of 0
    there, gets its gradient from the first.

    Args:
        tasks: task names.
        inner: the rest of the chain, from `TaskGradients` to updates: `optax.chain(sum_tasks(tasks), optax.sgd(0.1))`.
        gamma: learning rate of lambda; 1e-3 in the authors' script for NYUv2 and in LibMTL.
        rho: regularization towards equal weights; 0.1 in the authors' code and in LibMTL.

    Raises:
        ValueError: an option is out of range, or, at the first step, there is no second batch.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from mtan_jax.weighting import TaskGradients, modo, sum_tasks
        >>> tasks = ("depth", "normal")
        >>> tx = modo(tasks, optax.chain(sum_tasks(tasks), optax.sgd(0.1)), gamma=0.1, rho=0.0)
        >>> losses_at = lambda params: jnp.square(params - jnp.array([1.0, -2.0]))
        >>> params = jnp.zeros(1)
        >>> losses, pullback = jax.vjp(losses_at, params)
        >>> gradients = TaskGradients(
        ...     tasks, losses, losses > 0, jnp.ones(2), lambda cotangent: pullback(cotangent)[0],
        ...     second_losses_at=losses_at,
        ... )
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        >>> print((10 * state.weights).round())  # 2/3 and 1/3 give the shortest combination of the gradients -2 and 4
        [8. 2.]
    """
    tasks = check_tasks(tasks)
    gamma = check_number("modo", "gamma", gamma, above=0)
    rho = check_number("modo", "rho", rho, least=0)
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> MoDoState:
        return MoDoState(jnp.full(len(tasks), 1 / len(tasks), jnp.float32), inner.init(params))

    def update(
        updates: object, state: MoDoState, params: optax.Params | None = None, **extra_args: object
    ) -> tuple[optax.Updates, MoDoState]:
        task_gradients = check_updates(updates, tasks, "modo")
        second_losses_at = check_second_batch("modo", task_gradients, params)
        present, before = task_gradients.present, task_gradients.weights
        losses, pullback = jax.vjp(second_losses_at, params)

        def second_part(cotangent: Float[Array, "t"]) -> optax.Updates:
            return pullback(cotangent.astype(losses.dtype))[0]

        held = project_to_simplex(state.weights.astype(losses.dtype), present)
        direction = collectives.mean(second_part(before * held), task_gradients.axis_name)
        slope = jax.lax.stop_gradient(before * exact_slopes(task_gradients, direction)) + rho * held
        # A common shift of the slopes does not change the projection. It keeps large ones from rounding away the 1.
        slope = slope - jnp.where(present.any(), jnp.where(present, slope, jnp.inf).min(), 0)
        weights = project_to_simplex(held - gamma * slope, present)
        share = jnp.where(losses != 0, 0.5, 0).astype(losses.dtype)

        def mean_pullback(cotangent: Float[Array, "t"]) -> optax.Updates:
            first = task_gradients.pullback((1 - share) * cotangent)
            return jax.tree.map(jnp.add, first, second_part(share * cotangent))

        both = dataclasses.replace(task_gradients.scale(weights), pullback=mean_pullback)
        steps, inner_state = inner.update(both, state.inner, params, **extra_args)
        kept = jnp.where(present, weights, state.weights).astype(state.weights.dtype)
        return steps, MoDoState(kept, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)
