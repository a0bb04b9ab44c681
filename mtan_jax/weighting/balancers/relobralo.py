"""Relative loss balancing with random lookback."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32

from mtan_jax.weighting.core import TaskGradients, balancer
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.numerics import LARGEST_EXPONENT, SMALLEST_LOSS, nan_if_negative
from mtan_jax.weighting.option_checks import check_count, check_number, check_tasks


class ReLoBRaLoState(NamedTuple):
    """State of `relobralo`.

    Attributes:
        steps: steps so far; this number and the seed determine the lookback.
        seen: number of steps at which each task was present, counted up to 2.
        first: the losses that the lookback compares with.
        last: the losses at the last step at which each task was present.
        weights: the last weights; 1 before the first step.
    """

    steps: Int32[Array, ""]
    seen: Int32[Array, "t"]
    first: Float[Array, "t"]
    last: Float[Array, "t"]
    weights: Float[Array, "t"]


@declare("balancer")
def relobralo(
    tasks: Sequence[str], *, alpha: float = 0.999, temperature: float = 1.0, rho: float = 0.999, seed: int = 0
) -> optax.GradientTransformationExtraArgs:
    """ReLoBRaLo, relative loss balancing with random lookback (Bischof and Kraus, 2021).

    Equations: with b(t, t') = K softmax_i(L_i(t) / (T L_i(t'))), the balance of the losses relative to those of step
    t', the weights are

        w(t) = alpha (r w(t-1) + (1 - r) b(t, 0)) + (1 - alpha) b(t, t-1)

    r is 1 with probability `rho` at each step and 0 otherwise. With 0, the weights are compared with the start of
    training instead of the previous weights (the lookback). As in the authors' code, w = 1 at the first step and
    w = b(t, t-1) at the second, and the lookback compares with the losses of the second step. (In the paper it compares
    with those of the first.) That code draws r at the first step too, with losses of 1 in place of L(0).

    Losses are those after the weights of preceding methods; below 1e-10 they count as 1e-10. Absent tasks keep their
    entries of the state, K counts the present tasks, and the two first steps are those of each task.

    Args:
        tasks: task names.
        alpha: decay of the weights, from 0 to 1; the authors' default.
        temperature: T; the authors' default.
        rho: probability of r = 1. The default of the authors' code is 1, which is without lookback.
        seed: seed of the lookback, at least 0.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> from mtan_jax.weighting import relobralo
        >>> tx = relobralo(("semantic", "depth"), temperature=0.1)
    """
    tasks = check_tasks(tasks)
    alpha = check_number("relobralo", "alpha", alpha, least=0, most=1)
    temperature = check_number("relobralo", "temperature", temperature, above=0)
    rho = check_number("relobralo", "rho", rho, least=0, most=1)
    seed = check_count("relobralo", "seed", seed, least=0)

    def init() -> ReLoBRaLoState:
        first, last, weights = (jnp.ones(len(tasks), jnp.float32) for _ in range(3))
        return ReLoBRaLoState(jnp.zeros((), jnp.int32), jnp.zeros(len(tasks), jnp.int32), first, last, weights)

    def step(task_gradients: TaskGradients, state: ReLoBRaLoState) -> tuple[Float[Array, "t"], ReLoBRaLoState]:
        key = jax.random.fold_in(jax.random.key(seed), state.steps)
        keeps = jax.random.bernoulli(key, rho)
        losses = (task_gradients.weights * task_gradients.losses).astype(jnp.float32)
        present = task_gradients.present
        new = rebalance(state, losses, present, keeps, alpha, temperature)
        return nan_if_negative(jnp.where(present, new.weights, 0), losses, present), new

    return balancer("relobralo", tasks, init, step)


def rebalance(
    state: ReLoBRaLoState,
    losses: Float[Array, "t"],
    present: Bool[Array, "t"],
    keeps: Bool[Array, ""],
    alpha: float,
    temperature: float,
) -> ReLoBRaLoState:
    """The state of `relobralo` after one step.

    Args:
        state: the state before it.
        losses: L(t).
        present: tasks that take part; the others keep their entries.
        keeps: r, whether the weights are compared with the previous ones.
        alpha: decay of the weights.
        temperature: T.
    """
    losses = jnp.maximum(losses, SMALLEST_LOSS)

    def balance(earlier: Float[Array, "t"]) -> Float[Array, "t"]:
        exponents = jnp.minimum(losses / earlier / temperature, LARGEST_EXPONENT)
        return present.sum() * jax.nn.softmax(jnp.where(present, exponents, -jnp.inf))

    recent = balance(state.last)
    history = jnp.where(keeps, state.weights, balance(state.first))
    weights = jnp.where(state.seen == 1, recent, alpha * history + (1 - alpha) * recent)
    weights = jnp.where(state.seen == 0, 1, weights)
    return ReLoBRaLoState(
        optax.safe_increment(state.steps),
        jnp.where(present, jnp.minimum(state.seen + 1, 2), state.seen),
        jnp.where(present & (state.seen <= 1), losses, state.first),
        jnp.where(present, losses, state.last),
        jnp.where(present, weights, state.weights),
    )
