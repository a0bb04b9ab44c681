"""Telemetry of the task gradients: how much they conflict, and how far from stationary the parameters are."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

from mtan_jax.weighting.backward import Backward, per_task
from mtan_jax.weighting.core import TaskGradients, check_updates, task_weights
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.gradients import GradientMethodState
from mtan_jax.weighting.option_checks import check_choice, check_count, check_tasks
from mtan_jax.weighting.shared_parameters import Shared, choice, find, paths_of
from mtan_jax.weighting.solvers import min_norm
from mtan_jax.weighting.stack import gram_of


class TelemetryState(NamedTuple):
    """State of `telemetry`; `measure` reads it.

    Attributes:
        steps: steps so far.
        gram: Gram matrix of the gradients of the weighted losses with respect to the shared parameters, at the last
            measured step; 0 before the first.
        measured: tasks that were present at that step.
        inner: state of the rest of the chain.
    """

    steps: Int32[Array, ""]
    gram: Float[Array, "t t"]
    measured: Bool[Array, "t"]
    inner: optax.OptState


class Measurements(NamedTuple):
    """The last measurement of `telemetry`; NaN for absent tasks and pairs with one.

    Attributes:
        cosines: cosine of the angle between the gradients g_i and g_j of two tasks, where g_i is the gradient of the
            weighted loss.
        magnitude_similarity: 2 |g_i| |g_j| / (|g_i|^2 + |g_j|^2), 1 for equal lengths (Yu et al., NeurIPS 2020,
            definition 2).
        conflicting: share of the pairs with a negative cosine.
        condition_number: largest divided by smallest eigenvalue of the Gram matrix, at most 1 / machine epsilon.
        stationarity: the least norm of a convex combination of the g_i, 0 at Pareto stationary points (Desideri 2012).
        weights: factor of each loss's gradient in the update of the shared parameters, the product over all methods.
    """

    cosines: Float[Array, "t t"]
    magnitude_similarity: Float[Array, "t t"]
    conflicting: Float[Array, ""]
    condition_number: Float[Array, ""]
    stationarity: Float[Array, ""]
    weights: Float[Array, "t"]


@declare("wrapper")
def telemetry(
    tasks: Sequence[str],
    inner: optax.GradientTransformation,
    *,
    every: int = 1,
    shared: Shared = "auto",
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """Measures the gradients of the tasks, and changes nothing.

    If the rest of the chain contains a gradient method, the Gram matrix is taken from it: that of the gradients that
    the method compares, without a further backward pass. With `parameter_groups`, the Gram matrices of the groups with
    a gradient method are added. Otherwise each measurement costs one further backward pass per task.

    Args:
        tasks: task names.
        inner: the rest of the chain, from `TaskGradients` to updates.
        every: steps between measurements.
        shared: the parameters whose gradients are measured, unless a gradient method has its own choice; see
            `mtan_jax.weighting.gradients.combined`.
        backward: "together" or "one_by_one"; see `mtan_jax.weighting.gradients.combined`.

    Raises:
        ValueError: `every` is not a positive integer, or a choice is unknown.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from mtan_jax.weighting import measure, pcgrad, task_gradients, telemetry
        >>> tasks = ("depth", "normal")
        >>> tx = telemetry(tasks, optax.chain(pcgrad(tasks), optax.sgd(0.1)))
        >>> params = jnp.array([1.0, 0.5])
        >>> losses_of = lambda params: {"depth": (params**2).sum(), "normal": ((params - 2) ** 2).sum()}
        >>> updates, opt_state = tx.update(task_gradients(losses_of, params), tx.init(params), params)
        >>> print(f"{measure(opt_state).cosines[0, 1]:.3f}")
        -0.868
    """
    tasks = check_tasks(tasks)
    every = check_count("telemetry", "every", every, least=1)
    check_choice("telemetry", "backward", backward, ("together", "one_by_one"))
    choice("telemetry", shared, tasks)
    count = len(tasks)
    chain = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> TelemetryState:
        gram = jnp.zeros((count, count), jnp.float32)
        return TelemetryState(jnp.zeros((), jnp.int32), gram, jnp.zeros(count, bool), chain.init(params))

    def compute(task_gradients: TaskGradients) -> Float[Array, "t t"]:
        gradients = per_task(task_gradients.gradient, task_gradients, backward)
        mask, _ = find("telemetry", shared, tasks, paths_of(gradients), task_gradients)
        return gram_of([leaf for leaf, chosen in zip(jax.tree.leaves(gradients), mask, strict=True) if chosen])

    def update(
        updates: TaskGradients, state: TelemetryState, params: optax.Params | None = None, **extra_args: object
    ) -> tuple[optax.Updates, TelemetryState]:
        task_gradients = check_updates(updates, tasks, "telemetry")
        asked = dataclasses.replace(task_gradients, wants_gram=True)
        steps, inner_state = chain.update(asked, state.inner, params, **extra_args)
        is_due = state.steps % every == 0
        grams = _grams(inner_state)
        if grams:
            gram = jnp.where(is_due, sum(grams[1:], grams[0]), state.gram)
        else:
            weighted = dataclasses.replace(task_gradients, weights=task_weights(inner_state))
            gram = lax.cond(is_due, lambda: compute(weighted).astype(jnp.float32), lambda: state.gram)
        measured = jnp.where(is_due, task_gradients.present, state.measured)
        return steps, TelemetryState(optax.safe_increment(state.steps), gram, measured, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _grams(opt_state: optax.OptState) -> list[Float[Array, "t t"]]:
    """The Gram matrices in the states of gradient methods."""

    def is_method(node: object) -> bool:
        return isinstance(node, GradientMethodState)

    return [node.gram for node in jax.tree.leaves(opt_state, is_leaf=is_method) if is_method(node)]


def _states(opt_state: optax.OptState) -> list[TelemetryState]:
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, TelemetryState))
    return [node for node in leaves if isinstance(node, TelemetryState)]


def has_telemetry(opt_state: optax.OptState) -> bool:
    """Whether the optimizer state is that of a chain with `telemetry`."""
    return bool(_states(opt_state))


def measure(opt_state: optax.OptState) -> Measurements:
    """Reads the measurements of `telemetry` from the state of the optimizer. It can be compiled.

    Raises:
        ValueError: the chain contains no `telemetry`, or several.
    """
    found = _states(opt_state)
    if len(found) != 1:
        raise ValueError(
            f"the optimizer state contains {len(found)} states of telemetry; expected one. Put telemetry(tasks, chain) "
            "around the chain"
        )
    gram, measured = found[0].gram, found[0].measured
    pairs = measured[:, None] & measured[None]
    squares = jnp.diag(gram)
    lengths = jnp.sqrt(squares)
    products = lengths[:, None] * lengths[None]
    cosines = jnp.where(pairs & (products > 0), gram / jnp.where(products > 0, products, 1), jnp.nan)
    sums = squares[:, None] + squares[None]
    similarity = jnp.where(pairs & (sums > 0), 2 * products / jnp.where(sums > 0, sums, 1), jnp.nan)
    others = ~jnp.eye(len(gram), dtype=bool)
    defined = others & jnp.isfinite(cosines)
    conflicting = (defined & (cosines < 0)).sum() / defined.sum()
    # An absent task gets a row that adds an eigenvalue between the others.
    between = jnp.where(measured, squares, 0).sum() / jnp.maximum(measured.sum(), 1)
    values = jnp.linalg.eigvalsh(jnp.where(pairs, gram, 0) + jnp.diag(jnp.where(measured, 0, between)))
    smallest = jnp.maximum(values[0], values[-1] * jnp.finfo(gram.dtype).eps)
    weights = min_norm(gram, measured)
    return Measurements(
        cosines=cosines,
        magnitude_similarity=similarity,
        conflicting=conflicting,
        condition_number=values[-1] / smallest,
        stationarity=jnp.where(measured.any(), jnp.sqrt(jnp.maximum(weights @ gram @ weights, 0)), jnp.nan),
        weights=task_weights(found[0].inner),
    )
