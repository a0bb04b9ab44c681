"""First-order multi-gradient algorithm for multi-objective bilevel optimization."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

from mtan_jax.runtime import collectives
from mtan_jax.weighting.core import TaskGradients, check_updates
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.numerics import softmax_over, update_where
from mtan_jax.weighting.option_checks import check_count, check_number, check_tasks
from mtan_jax.weighting.solvers import interior_point
from mtan_jax.weighting.stack import gram_of, weighted_sum
from mtan_jax.weighting.update_checks import check_second_batch

_SMALLEST = 1e-8
_LARGEST_LOSS = 1e5


class FORUMState(NamedTuple):
    """State of `forum`.

    Attributes:
        task_weights: factor of each task's gradient of the first batch at the last step; 1 before the first step.
        steps: steps so far.
        logits: alpha, whose softmax weights the losses of the first batch.
        adam: Adam's moments of the logits, and per task the number of steps at which it was present.
        shares: the running averages of lambda, the factors of the unit gradients of the second batch.
    """

    task_weights: Float[Array, "t"]
    steps: Int32[Array, ""]
    logits: Float[Array, "t"]
    adam: optax.ScaleByAdamState
    shares: Float[Array, "t"]


@declare("gradient_method", second_batch=True)
def forum(
    tasks: Sequence[str],
    *,
    steps_per_epoch: int,
    rho: float = 0.1,
    meta_rate: float = 1e-3,
    inner_rate: float = 0.1,
    inner_steps: int = 5,
) -> optax.GradientTransformationExtraArgs:
    """FORUM (Ye, Lin, Cao et al., ECAI 2024): multi-objective bilevel optimization with first derivatives only.

    Equation, as in the authors' code: with w = softmax(alpha), the lower level is f(alpha, p) = sum_i w_i L_i(p), on
    the first batch. Gradient descent from p with `inner_rate` leads to p_T after `inner_steps` steps, and the
    constraint is q = f(alpha, p) - f(alpha, p_T) <= 0. Its gradient z with respect to alpha and p treats p_T as a
    constant. F_t are the gradients of the losses of a second batch with respect to p, divided by their norms. The
    update of p and alpha is

        sum_t lambda_t F_t + nu z,   nu = max(sum_t lambda_t pi_t, 0),   pi_t = rho - <z, F_t> / |z|^2

    where F_t is 0 for alpha. lambda is the running average, with rate 1 / (epoch + 1)^(3/4), of the minimizer over the
    simplex of |sum_t lambda_t F_t + nu z|^2 - nu rho |z|^2. Adam takes the step of alpha, and the rest of the chain
    that of p.

    The authors solve for lambda and nu as a convex program (cvxpy), in which nu has only a lower bound; the bound is
    always attained. In the code, and here, nu times rho |z|^2 counts once in that program; with a factor of 2, nu would
    be its unconstrained minimizer.

    The update acts on all parameters, as in that code, so there is no option `shared`.

    Each step costs T + 1 backward passes of the first batch, K backward passes of the second, and K gradients in
    memory. The descent ends early if f exceeds 1e5, as in that code.

    An absent task keeps its logit and its moments, and the softmax is over the others. A task without a label in the
    second batch keeps its lambda and does not contribute.

    Args:
        tasks: task names.
        steps_per_epoch: length of an epoch in steps.
        rho: rate at which the constraint is enforced.
        meta_rate: learning rate of alpha.
        inner_rate: learning rate of the inner steps; the authors use 0.1, and 0.01 for QM9.
        inner_steps: T.

    Raises:
        ValueError: an option is out of range, or, at the first step, there is no second batch.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import forum
        >>> tx = optax.chain(forum(("semantic", "depth"), steps_per_epoch=397), optax.adam(1e-4))
    """
    tasks = check_tasks(tasks)
    steps_per_epoch = check_count("forum", "steps_per_epoch", steps_per_epoch, least=1)
    rho = check_number("forum", "rho", rho, least=0)
    meta_rate = check_number("forum", "meta_rate", meta_rate, least=0)
    inner_rate = check_number("forum", "inner_rate", inner_rate, least=0)
    inner_steps = check_count("forum", "inner_steps", inner_steps, least=1)
    # One Adam per task, so that steps at which a task is absent do not change its moments.
    adam = optax.scale_by_adam()

    def init(params: optax.Params) -> FORUMState:
        del params
        count = len(tasks)
        logits = jnp.zeros(count, jnp.float32)
        return FORUMState(
            task_weights=jnp.ones(count, jnp.float32),
            steps=jnp.zeros((), jnp.int32),
            logits=logits,
            adam=jax.vmap(adam.init)(logits),
            shares=jnp.zeros(count, jnp.float32),
        )

    def update(
        updates: TaskGradients, state: FORUMState, params: optax.Params | None = None, **extra_args: object
    ) -> tuple[optax.Updates, FORUMState]:
        del extra_args
        task_gradients = check_updates(updates, tasks, "forum")
        check_second_batch("forum", task_gradients, params)
        if task_gradients.losses_at is None:
            raise ValueError("forum needs TaskGradients.losses_at; make them with task_gradients")
        present = jnp.asarray(task_gradients.present)
        weights = softmax_over(present, state.logits)
        lower = task_gradients.gradient(task_gradients.weights * weights)
        fall = lax.stop_gradient(
            _fall(task_gradients, task_gradients.losses_at, weights, params, inner_rate, inner_steps)
        )
        by_logit = weights * (fall - weights @ fall)
        upper = _upper(task_gradients, params)
        leaves = [jnp.concatenate([a, b[None]]) for a, b in zip(upper, jax.tree.leaves(lower), strict=True)]
        gram = lax.stop_gradient(gram_of(leaves))
        norms = jnp.sqrt(jnp.diag(gram)[:-1])
        counted, scale = norms > 0, 1 / (norms + _SMALLEST)
        square = gram[-1, -1] + by_logit @ by_logit + _SMALLEST
        along = scale * gram[:-1, -1]  # <z, F_t>
        solved = _shares(scale[:, None] * gram[:-1, :-1] * scale[None], along, square, counted, rho)
        rate = (state.steps // steps_per_epoch + 1.0) ** -0.75
        shares = jnp.where(counted, state.shares + rate * (solved - state.shares), state.shares).astype(jnp.float32)
        used = jnp.where(counted, shares, 0)
        nu = jnp.maximum(used @ (rho - along / square), 0)
        factors = jnp.append(used * scale, nu)
        gradient = jax.tree.unflatten(jax.tree.structure(lower), [weighted_sum(factors, leaf) for leaf in leaves])
        direction, new_adam = jax.vmap(adam.update)((nu * by_logit).astype(jnp.float32), state.adam)
        logits, new_adam = update_where(
            present, (state.logits - meta_rate * direction, new_adam), (state.logits, state.adam)
        )
        return gradient, FORUMState(
            (nu * weights * task_gradients.weights).astype(jnp.float32),
            optax.safe_increment(state.steps),
            logits,
            new_adam,
            shares,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _fall(
    task_gradients: TaskGradients,
    losses_at: Callable[[optax.Params], Float[Array, "t"]],
    weights: Float[Array, "t"],
    params: optax.Params,
    rate: float,
    steps: int,
) -> Float[Array, "t"]:
    """By how much each weighted loss of the first batch falls in the inner steps."""
    factors = task_gradients.weights * weights
    lower = jax.value_and_grad(lambda params: jnp.vdot(factors, losses_at(params)))

    def descend(_: Array, params: optax.Params) -> optax.Params:
        loss, gradient = lower(params)
        gradient = collectives.mean(gradient, task_gradients.axis_name)  # as in `TaskGradients.gradient`
        goes_on = loss <= _LARGEST_LOSS
        return jax.tree.map(lambda p, g: jnp.where(goes_on, p - rate * g, p).astype(p.dtype), params, gradient)

    last = losses_at(lax.fori_loop(0, steps, descend, params))
    return jnp.where(task_gradients.present, task_gradients.weights * (task_gradients.losses - last), 0)


def _upper(task_gradients: TaskGradients, params: optax.Params) -> list[Float[Array, "t ..."]]:
    """The gradients of the losses of the second batch, one array [t, ...] per parameter."""
    _, pullback = jax.vjp(task_gradients.second_losses_at, params)  # type: ignore[arg-type]
    gradients = jax.vmap(lambda cotangent: pullback(cotangent)[0])(jnp.diag(task_gradients.weights))
    return jax.tree.leaves(collectives.mean(gradients, task_gradients.axis_name))


def _shares(
    gram: Float[Array, "t t"], along: Float[Array, "t"], square: Float[Array, ""], counted: Bool[Array, "t"], rho: float
) -> Float[Array, "t"]:
    """The minimizer over the simplex of |F'x + nu z|^2 - nu rho |z|^2, nu = max(x'pi, 0).

    With z/|z| in place of z, a = <F'x, z> / |z| and r = rho |z|, it is |F'x|^2 + a max(r - a, 0).

    Args:
        gram: F F'.
        along: F z.
        square: |z|^2.
        counted: tasks that take part; the others have 0.
        rho: see `forum`.
    """
    length = jnp.sqrt(square)
    cosines, bound = along / length, rho * length

    def objective(x: Float[Array, "t"], gap: Float[Array, ""]) -> Float[Array, ""]:
        a = cosines @ x
        slack = bound - a
        above = (slack + jnp.sqrt(slack**2 + jnp.maximum(gap, 1e-14))) / 2  # max(slack, 0), smoothed
        return (x @ gram @ x + a * above) / (1 + bound)

    start = counted / jnp.maximum(counted.sum(), 1).astype(gram.dtype)
    return interior_point(objective, start.astype(gram.dtype), counted, on_simplex=True)
