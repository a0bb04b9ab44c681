"""Auto-Lambda: weights learned by looking one step ahead, at a second batch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32

from mtan_jax.runtime import collectives
from mtan_jax.weighting.core import TaskGradients, check_number, check_tasks, check_updates
from mtan_jax.weighting.declaration import declare


class AutoLambdaState(NamedTuple):
    """State of `auto_lambda`.

    Attributes:
        steps: taken so far, for the learning rate.
        lambdas: the weights of the next step's virtual step; the last step was weighted with them.
        adam: the moments of the weights, and for each task the number of steps at which its weight was learned.
        inner: of the rest of the chain.
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
    """Auto-Lambda: learned weights (Liu, James, Davison, Johns, TMLR 2022, and their code).

    Equation: with the parameters p, a virtual step p' = p + u, u being what the rest of the chain makes of the gradient
    of sum_i lambda_i L_i(p), leads to the losses L'_j(p') of a second batch. The weights take one step of Adam along
    the derivative of sum_j L'_j(p') over the primary tasks j, for which

        d / d lambda_i = -rate <dL_i/dp(p), d>,   d = d/dp' sum_j L'_j(p')
        <dL_i/dp(p), d> = (L_i(p + e d) - L_i(p - e d)) / 2e,   e = epsilon / |d|

    and then the real step is taken from p, with the new weights. The losses include the weights of the methods before
    this one.

    The derivative is that of a step of SGD, with or without momentum and weight decay. For these the paper has a plain
    step of gradient descent; their code adds momentum and weight decay, as here, and for other optimisers takes the
    plain step, where here the virtual step is the optimiser's own. The derivative is in all cases that formula. In the
    code the second batch is of the training set in another order, Adam has no weight decay, and nothing keeps a weight
    from falling below 0, which turns that task's gradient round: choose `meta_rate` times the number of steps with that
    in mind. All that is so here.

    A step costs one more backward pass, a forward and backward pass of the second batch, and two more forward passes;
    and the second batch has to be read.

    At a step where a task is absent its weight and its moments stay as they are; so do all where the second batch says
    nothing, because no primary task has a label in it.

    Args:
        tasks: names, in the order of the losses.
        inner: what follows, from `TaskGradients` to updates: `optax.chain(sum_tasks(tasks), optax.sgd(0.1))`.
        learning_rate: of the network, constant or a schedule of the step.
        meta_rate: rate that the weights are learned with.
        initial: weight of every task at the start.
        primary: the tasks whose losses on the second batch are to fall, the others being auxiliary; None: all.
        epsilon: length of the steps of the difference quotient, in the parameters; the authors use 0.01. 0: its limit,
            exact, by differentiating the backward pass, for about the same time. The two differ where a network has
            many rectifiers and poolings, whose kinks a step may cross, and in low precision.

    Raises:
        ValueError: an option is out of its range; or, at the first step, there is no second batch.

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
    rates = {"meta_rate": meta_rate, "initial": initial, "epsilon": epsilon, "learning_rate": learning_rate}
    for name, value in rates.items():
        if not callable(value):
            check_number("auto_lambda", name, value, least=0)
    chosen = tasks if primary is None else check_tasks(primary)
    unknown = [name for name in chosen if name not in tasks]
    if unknown:
        raise ValueError(f"auto_lambda primary: unknown {', '.join(unknown)}; known: {', '.join(tasks)}")
    is_primary = np.array([name in chosen for name in tasks])
    inner = optax.with_extra_args_support(inner)
    # One Adam a task, so that the steps at which a task is absent leave no trace in its moments.
    adam = optax.scale_by_adam()

    def init(params: optax.Params) -> AutoLambdaState:
        lambdas = jnp.full(len(tasks), initial, jnp.float32)
        return AutoLambdaState(jnp.zeros((), jnp.int32), lambdas, jax.vmap(adam.init)(lambdas), inner.init(params))

    def update(
        updates: TaskGradients, state: AutoLambdaState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, AutoLambdaState]:
        task_gradients = check_updates(updates, tasks, "auto_lambda")
        second_losses_at, losses_at = task_gradients.second_losses_at, task_gradients.losses_at
        if second_losses_at is None:
            raise ValueError(
                "auto_lambda learns its weights from a second batch, and the step was given none: a batch for "
                "make_train_step must hold one under the key 'second', as `Experiment.train_batches` and "
                "`mtan_jax.data.batches.pipeline.with_second` give it"
            )
        if losses_at is None or params is None:
            raise ValueError("auto_lambda needs the parameters, and TaskGradients.losses_at")

        def step(lambdas: Float[Array, "t"]) -> tuple[optax.Updates, optax.OptState]:
            return inner.update(task_gradients.scale(lambdas), state.inner, params, **extra_args)

        virtual = optax.apply_updates(params, step(state.lambdas)[0])
        weights = task_gradients.weights
        direction = jax.grad(lambda params: jnp.vdot(weights * is_primary, second_losses_at(params)))(virtual)
        direction = collectives.mean(direction, task_gradients.axis_name)  # as in `TaskGradients.gradient`
        norm = optax.tree_utils.tree_norm(direction)
        direction = jax.tree.map(lambda leaf: leaf / jnp.where(norm > 0, norm, 1), direction)
        if epsilon == 0:
            slopes = _exact_slopes(task_gradients, direction)
        else:
            slopes = _slopes(losses_at, params, direction, epsilon)
        rate = learning_rate(state.steps) if callable(learning_rate) else learning_rate
        meta_gradient = (-rate * norm * weights * slopes).astype(state.lambdas.dtype)
        ascent, new_adam = jax.vmap(adam.update)(meta_gradient, state.adam)

        def keep(new: Array, old: Array) -> Array:
            return jnp.where(task_gradients.present & (norm > 0), new, old)

        lambdas = keep(state.lambdas - meta_rate * ascent, state.lambdas)
        real, inner_state = step(lambdas)
        steps = optax.safe_increment(state.steps)
        return real, AutoLambdaState(steps, lambdas, jax.tree.map(keep, new_adam, state.adam), inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _slopes(
    losses_at: Callable[[optax.Params], Float[Array, "t"]],
    params: optax.Params,
    direction: optax.Updates,
    epsilon: float,
) -> Float[Array, "t"]:
    """How fast each loss grows along a direction of length 1."""

    def losses_along(length: float) -> Float[Array, "t"]:
        return losses_at(jax.tree.map(lambda p, d: (p + length * d).astype(p.dtype), params, direction))

    return (losses_along(epsilon) - losses_along(-epsilon)) / (2 * epsilon)


def _exact_slopes(task_gradients: TaskGradients, direction: optax.Updates) -> Float[Array, "t"]:
    """The same, as the derivative of <gradient(c), direction> by the cotangent c, in which it is linear."""

    def product(cotangent: Float[Array, "t"]) -> Float[Array, ""]:
        return optax.tree_utils.tree_vdot(task_gradients.gradient(cotangent), direction)

    slopes = jax.grad(product)(jnp.zeros_like(task_gradients.losses))
    return collectives.mean(slopes, task_gradients.axis_name)  # the transpose of psum is psum
