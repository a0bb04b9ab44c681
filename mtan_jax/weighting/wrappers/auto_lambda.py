"""Auto-Lambda."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32

from mtan_jax.runtime import collectives
from mtan_jax.weighting.core import TaskGradients, check_updates
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.numerics import update_where
from mtan_jax.weighting.option_checks import check_number, check_tasks
from mtan_jax.weighting.update_checks import check_optimizer, check_second_batch


class AutoLambdaState(NamedTuple):
    """State of `auto_lambda`.

    Attributes:
        steps: steps so far, for the learning rate.
        lambdas: the weights of the last step; the next virtual step uses them too.
        adam: Adam's moments of the weights, and per task the number of steps at which its weight was learned.
        inner: state of the rest of the chain.
    """

    steps: Int32[Array, ""]
    lambdas: Float[Array, "t"]
    adam: optax.ScaleByAdamState
    inner: optax.OptState


@declare("wrapper", second_batch=True)
def auto_lambda(
    tasks: Sequence[str],
    inner: optax.GradientTransformation,
    *,
    learning_rate: float | optax.Schedule,
    meta_rate: float = 1e-4,
    initial: float = 0.1,
    primary: Sequence[str] | None = None,
    epsilon: float = 0.01,
) -> optax.GradientTransformationExtraArgs:
    """Auto-Lambda (Liu, James, Davison, Johns, TMLR 2022, and their code): learns weights that help one step ahead.

    Equation: from the parameters p, the virtual step p' = p + u leads to the losses L'_j(p') of a second batch, where u
    is the update that the rest of the chain computes for the gradient of sum_i lambda_i L_i(p). The weights take one
    Adam step along the derivative of sum_j L'_j(p') over the primary tasks j, which is

        d / d lambda_i = -rate <dL_i/dp(p), d>,   d = d/dp' sum_j L'_j(p')
        <dL_i/dp(p), d> = (L_i(p + e d) - L_i(p - e d)) / 2e,   e = epsilon / |d|

    The real step then starts from p with the new weights. The losses include the weights of the methods before this
    one.

    The derivative assumes a virtual step of SGD, with or without momentum and weight decay; the formula is the same for
    every optimizer. The paper's virtual step is plain gradient descent. The authors' code adds momentum and weight
    decay for SGD, as here, and uses the plain step for other optimizers; here the virtual step is always the
    optimizer's own. As in that code, the second batch comes from the training set in another order, Adam has no weight
    decay, and a weight may fall below 0, which reverses the task's gradient. Choose `meta_rate` times the number of
    steps accordingly.

    Each step costs one more backward pass, a forward and backward pass of the second batch, and two more forward
    passes. The second batch must also be loaded.

    An absent task keeps its weight and its moments. All tasks do if the second batch has no label for a primary task.

    Args:
        tasks: task names.
        inner: the rest of the chain, from `TaskGradients` to updates: `optax.chain(sum_tasks(tasks), optax.sgd(0.1))`.
        learning_rate: the network's, constant or a function of the step.
        meta_rate: learning rate of the weights.
        initial: initial weight of every task.
        primary: tasks whose losses on the second batch are minimized; the others are auxiliary. None: all.
        epsilon: step length of the difference quotient in parameter space; the authors use 0.01. 0 computes the exact
            limit by differentiating the backward pass, in about the same time. The two differ in low precision, and in
            networks with many ReLUs and poolings, whose kinks a step may cross.

    Raises:
        ValueError: an option is out of range; at `init`, the rest of the chain has no optimizer; or, at the first step,
            there is no second batch.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from mtan_jax.weighting import TaskGradients, auto_lambda, sum_tasks
        >>> tasks = ("depth", "normal")
        >>> inner = optax.chain(sum_tasks(tasks), optax.sgd(0.1))
        >>> tx = auto_lambda(tasks, inner, learning_rate=0.1, meta_rate=0.01, primary=("depth",))
        >>> losses_at = lambda params: jnp.square(params - jnp.array([1.0, -1.0]))
        >>> params = jnp.zeros(1)
        >>> losses, pullback = jax.vjp(losses_at, params)
        >>> gradients = TaskGradients(
        ...     tasks, losses, losses > 0, jnp.ones(2), lambda cotangent: pullback(cotangent)[0], losses_at,
        ...     second_losses_at=losses_at,
        ... )
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        >>> print(state.lambdas > 0.1)  # a step for "normal" raises the loss of "depth"
        [ True False]
    """
    tasks = check_tasks(tasks)
    meta_rate = check_number("auto_lambda", "meta_rate", meta_rate, least=0)
    initial = check_number("auto_lambda", "initial", initial, least=0)
    epsilon = check_number("auto_lambda", "epsilon", epsilon, least=0)
    if not callable(learning_rate):
        learning_rate = check_number("auto_lambda", "learning_rate", learning_rate, least=0)
    chosen = tasks if primary is None else check_tasks(primary)
    unknown = [name for name in chosen if name not in tasks]
    if unknown:
        raise ValueError(f"auto_lambda primary names unknown tasks {', '.join(unknown)}; known: {', '.join(tasks)}")
    is_primary = np.array([name in chosen for name in tasks])
    inner = optax.with_extra_args_support(inner)
    # One Adam per task, so that steps at which a task is absent do not change its moments.
    adam = optax.scale_by_adam()

    def init(params: optax.Params) -> AutoLambdaState:
        lambdas = jnp.full(len(tasks), initial, jnp.float32)
        inner_state = inner.init(params)
        check_optimizer("auto_lambda", inner_state)
        return AutoLambdaState(jnp.zeros((), jnp.int32), lambdas, jax.vmap(adam.init)(lambdas), inner_state)

    def update(
        updates: TaskGradients, state: AutoLambdaState, params: optax.Params | None = None, **extra_args: object
    ) -> tuple[optax.Updates, AutoLambdaState]:
        task_gradients = check_updates(updates, tasks, "auto_lambda")
        second_losses_at = check_second_batch("auto_lambda", task_gradients, params)
        losses_at = task_gradients.losses_at
        if losses_at is None:
            raise ValueError("auto_lambda needs TaskGradients.losses_at; make them with task_gradients")

        def step(lambdas: Float[Array, "t"]) -> tuple[optax.Updates, optax.OptState]:
            return inner.update(task_gradients.scale(lambdas), state.inner, params, **extra_args)

        virtual = optax.apply_updates(params, step(state.lambdas)[0])
        weights = task_gradients.weights
        direction = jax.grad(lambda params: jnp.vdot(weights * is_primary, second_losses_at(params)))(virtual)
        direction = collectives.mean(direction, task_gradients.axis_name)  # as in `TaskGradients.gradient`
        norm = optax.tree_utils.tree_norm(direction)
        direction = jax.tree.map(lambda leaf: leaf / jnp.where(norm > 0, norm, 1), direction)
        if epsilon == 0:
            slopes = exact_slopes(task_gradients, direction)
        else:
            slopes = _slopes(losses_at, params, direction, epsilon)
        rate = learning_rate(state.steps) if callable(learning_rate) else learning_rate
        meta_gradient = jax.lax.stop_gradient((-rate * norm * weights * slopes).astype(state.lambdas.dtype))
        ascent, new_adam = jax.vmap(adam.update)(meta_gradient, state.adam)
        lambdas, new_adam = update_where(
            task_gradients.present & (norm > 0),
            (state.lambdas - meta_rate * ascent, new_adam),
            (state.lambdas, state.adam),
        )
        real, inner_state = step(lambdas)
        steps = optax.safe_increment(state.steps)
        return real, AutoLambdaState(steps, lambdas, new_adam, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _slopes(
    losses_at: Callable[[optax.Params], Float[Array, "t"]],
    params: optax.Params,
    direction: optax.Updates,
    epsilon: float,
) -> Float[Array, "t"]:
    """The directional derivative of each loss along a unit vector, by central differences."""

    def losses_along(length: float) -> Float[Array, "t"]:
        return losses_at(jax.tree.map(lambda p, d: (p + length * d).astype(p.dtype), params, direction))

    return (losses_along(epsilon) - losses_along(-epsilon)) / (2 * epsilon)


def exact_slopes(task_gradients: TaskGradients, direction: optax.Updates) -> Float[Array, "t"]:
    """The exact directional derivatives: those of <gradient(c), direction>, which is linear in the cotangent c."""

    def product(cotangent: Float[Array, "t"]) -> Float[Array, ""]:
        return optax.tree_utils.tree_vdot(task_gradients.gradient(cotangent), direction)

    slopes = jax.grad(product)(jnp.zeros_like(task_gradients.losses))
    return collectives.mean(slopes, task_gradients.axis_name)  # the transpose of psum is psum
