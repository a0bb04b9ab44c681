"""`optax.MultiSteps` and `optax.apply_if_finite` around a chain of weighting methods."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import PyTreeDef
from jaxtyping import Array, Float

from mtan_jax.weighting.backward import Backward, per_task
from mtan_jax.weighting.core import TaskGradients, check_updates
from mtan_jax.weighting.declaration import declare
from mtan_jax.weighting.option_checks import check_choice, check_tasks
from mtan_jax.weighting.stack import weighted_sum


class Wrapper(Protocol):
    """What an optax wrapper returns: a transformation, or an object with the same methods."""

    def init(self, params: optax.Params, /) -> optax.OptState: ...
    def update(self, *args: object, **kwargs: object) -> tuple[optax.Updates, optax.OptState]: ...


class Arrays(NamedTuple):
    """Task gradients as arrays, on which a wrapper can compute.

    Attributes:
        losses: unweighted losses; 0 for an absent task.
        present: 1 for a present task, else 0.
        steps: 1 per task. A wrapper that adds or averages over steps turns it into the factor of the gradient of a task
            that was present at all of them.
        gradients: the gradient of each unweighted loss; leaves [t, ...].
    """

    losses: Float[Array, "t"]
    present: Float[Array, "t"]
    steps: Float[Array, "t"]
    gradients: optax.Updates


@declare("wrapper")
def around(
    tasks: Sequence[str],
    inner: optax.GradientTransformation,
    *,
    wrap: Callable[[optax.GradientTransformation], Wrapper],
    backward: Backward = "together",
) -> optax.GradientTransformationExtraArgs:
    """Puts `optax.MultiSteps` or `optax.apply_if_finite` around a chain of weighting methods.

    MultiSteps adds gradients of several steps, and apply_if_finite looks for NaN in them; neither can do so with
    `TaskGradients`. Here they receive losses and gradients of all tasks as arrays: MultiSteps averages them, and the
    methods see the mean over the steps. A task counts for the steps at which it was present. With
    `use_grad_mean=False`, gradients are this mean times the number of steps, and losses are the mean.

    This runs one backward pass per task, and MultiSteps keeps one gradient per task. If the methods may act at every
    step, `optax.chain(pcgrad(tasks), optax.MultiSteps(optax.adam(1e-3), 4).gradient_transformation())` averages their
    results instead, and `optax.apply_if_finite(optax.adam(1e-3), 10)` inside the chain skips the optimizer only.

    A method that evaluates the losses at other parameters, such as `famo`, sees those of the last step, and so does
    `dtp` with its indicators. There are no gradients with respect to features.

    Args:
        tasks: task names.
        inner: the chain, from `TaskGradients` to updates.
        wrap: makes the wrapper, for example `lambda inner: optax.MultiSteps(inner, every_k_schedule=4)`; or one around
            the other. Transformations of a gradient, such as `optax.clip`, belong in the chain, after the method.
        backward: "together" or "one_by_one"; see `mtan_jax.weighting.gradients.combined`.

    Raises:
        TypeError: `wrap` is not a function, or at `init`, it makes another wrapper.
        ValueError: no task, a repeated name, or an unknown choice.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import around, pcgrad
        >>> tasks = ("semantic", "depth")
        >>> chain = optax.chain(pcgrad(tasks), optax.adam(1e-3))
        >>> tx = around(tasks, chain, wrap=lambda inner: optax.apply_if_finite(inner, max_consecutive_errors=10))
    """
    tasks = check_tasks(tasks)
    check_choice("around", "backward", backward, ("together", "one_by_one"))
    if not callable(wrap):
        raise TypeError(
            f"around wrap is {type(wrap).__name__}; expected a function that makes the wrapper, for example "
            "lambda inner: optax.MultiSteps(inner, every_k_schedule=4)"
        )
    count = len(tasks)
    chain = optax.with_extra_args_support(inner)

    def from_rows(task_gradients: TaskGradients, arrays: Arrays) -> TaskGradients:
        count = jnp.where(arrays.present > 0, arrays.present, 1)

        def pullback(cotangent: Float[Array, "t"]) -> optax.Updates:
            factors = cotangent * arrays.steps / count
            return jax.tree.map(lambda leaf: weighted_sum(factors, leaf), arrays.gradients)

        # The tasks of the last step alone are not those of all steps, and neither are its features.
        return dataclasses.replace(
            task_gradients,
            losses=arrays.losses / count,
            present=arrays.present > 0,
            pullback=pullback,
            feature_pullback=None,
            task_indices=None,
        )

    def inner_update(
        updates: Arrays,
        state: optax.OptState,
        params: Arrays | None = None,
        *,
        task_gradients: TaskGradients,
        **extra_args: object,
    ) -> tuple[Arrays, optax.OptState]:
        alone = None if params is None else _first(params.gradients)
        result, state = chain.update(from_rows(task_gradients, updates), state, alone, **extra_args)
        zeros = optax.tree.zeros_like(updates)
        return zeros._replace(gradients=_repeated(result, count)), state

    wrapper = wrap(
        optax.GradientTransformationExtraArgs(lambda params: chain.init(_first(params.gradients)), inner_update)
    )

    def as_arrays(params: optax.Params) -> Arrays:
        losses = jnp.zeros(count, jnp.result_type(jnp.float32, *jax.tree.leaves(params)))
        zeros = jnp.zeros(count, jnp.float32)
        return Arrays(losses, zeros, zeros, _repeated(params, count))

    def init(params: optax.Params) -> optax.OptState:
        state = wrapper.init(as_arrays(params))
        _check_wrapper(state, jax.tree.structure(jax.eval_shape(chain.init, params)))
        return state

    def update(
        updates: TaskGradients, state: optax.OptState, params: optax.Params | None = None, **extra_args: object
    ) -> tuple[optax.Updates, optax.OptState]:
        task_gradients = check_updates(updates, tasks, "around")
        unweighted = dataclasses.replace(task_gradients, weights=jnp.ones_like(task_gradients.weights))
        gradients = per_task(task_gradients.gradient, unweighted, backward)
        present = jnp.asarray(task_gradients.present, jnp.float32)
        arrays = Arrays(task_gradients.losses * present, present, jnp.ones_like(present), gradients)
        results, state = wrapper.update(
            arrays, state, None if params is None else as_arrays(params), task_gradients=task_gradients, **extra_args
        )
        return _first(results.gradients), state

    return optax.GradientTransformationExtraArgs(init, update)


def _check_wrapper(state: optax.OptState, of_chain: PyTreeDef) -> None:
    """Checks that a state is that of `optax.MultiSteps` or `optax.apply_if_finite` around the chain's.

    Raises:
        TypeError: it is the state of another wrapper.
    """
    while jax.tree.structure(state) != of_chain:
        if isinstance(state, optax.MultiStepsState):
            state = state.inner_opt_state
        elif isinstance(state, optax.ApplyIfFiniteState):
            state = state.inner_state
        else:
            raise TypeError(
                f"around wrap made a wrapper with the state {type(state).__name__}; expected optax.MultiSteps, "
                "optax.apply_if_finite, or one around the other. Put other transformations, such as clipping, into the "
                "chain, after the method"
            )


def _repeated(tree: optax.Params, count: int) -> optax.Params:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *jnp.shape(leaf))), tree)


def _first(tree: optax.Params) -> optax.Params:
    return jax.tree.map(lambda leaf: leaf[0], tree)
