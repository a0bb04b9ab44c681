"""Builds methods that combine the gradients of the tasks.

A gradient method takes the place of `sum_tasks`, after all balancers:

    tx = optax.chain(dwa(tasks, steps_per_epoch=397), pcgrad(tasks), optax.adam(1e-4))

It runs one backward pass per task. The method determines the gradient of the shared parameters. All other parameters
get the plain gradient of the weighted sum of the losses, from the same backward passes. With shared="auto", a task that
depends on no shared parameter takes no part in the method, and its own parameters get its plain gradient.
"""

from collections.abc import Callable, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.tree_util import PyTreeDef
from jaxtyping import Array, Bool, Float, PyTree

from mtan_jax.weighting.backward import Backward, per_task
from mtan_jax.weighting.core import TaskGradients, check_gradient, check_updates
from mtan_jax.weighting.option_checks import check_choice, check_tasks
from mtan_jax.weighting.shared_parameters import Shared, choice, find, paths_of, select
from mtan_jax.weighting.stack import Stack, weighted_sum

State = TypeVar("State")
TaskSpecific = Literal["plain", "weighted"]
Wrt = Literal["parameters", "features"]


class GradientMethodState(NamedTuple):
    """State of a gradient method.

    Attributes:
        task_weights: factor of each task's gradient at the last step, the product over all methods; 1 before the first
            step.
        gram: the Gram matrix of the last step, if `TaskGradients.wants_gram`; else 0.
        inner: the method's own state.
    """

    task_weights: Float[Array, "t"]
    gram: Float[Array, "t t"]
    inner: PyTree


class Combined(NamedTuple, Generic[State]):
    """The result of combining a `Stack`.

    Attributes:
        leaves: the combined gradient: `Stack.leaves` without the task axis.
        task_weights: the weight of each task's gradient in it, for the log.
        task_specific_weights: factors of the gradients of all parameters that are not shared.
        state: the method's state after this step.
    """

    leaves: tuple[Float[Array, "..."], ...]
    task_weights: Float[Array, "t"]
    task_specific_weights: Float[Array, "t"]
    state: State


def combined(
    name: str,
    tasks: Sequence[str],
    init: Callable[[tuple[Array, ...]], State],
    combine: Callable[[Stack, State], Combined[State]],
    *,
    shared: Shared,
    backward: Backward,
    state_per_parameter: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Builds a method whose gradient of the shared parameters is any function of the task gradients.

    Args:
        name: of the method, for error messages.
        tasks: task names.
        init: maps the shared parameters to the initial state, a pytree of arrays whose shapes and dtypes `combine`
            keeps.
        combine: maps gradients and state to the combined gradient and the next state. An outer derivative, as in
            meta-learning, goes through it.
        shared: the parameters that the method acts on:

            - "auto": those that two or more losses depend on, read from the losses that `task_gradients` received. An
              array with one slice per task counts as shared. A task that depends on none of them takes no part: it has
              the weight 1.
            - "all": all parameters.
            - "all_but_heads" or "backbone": by the names of `mtan_jax.models`. Nash-MTL and FAMO do the former, CAGrad
              the latter, which excludes the attention masks.
            - A function of a parameter's path, such as ("backbone", "encoder_0", "layer_0", "conv", "conv", "kernel").
        backward: "together" batches the backward passes of all tasks; "one_by_one" unrolls them, which makes a longer
            program to compile.
        state_per_parameter: whether the state contains arrays that belong to parameters. With "auto", `init` then gets
            all parameters, because it does not know the losses, and the stack contains zeros for those not shared.

    Raises:
        ValueError: no task, a repeated name, or an unknown choice.
    """
    tasks = check_tasks(tasks)
    choice(name, shared, tasks)
    check_choice(name, "backward", backward, ("together", "one_by_one"))
    keeps_all = shared == "auto" and state_per_parameter

    def init_fn(params: optax.Params) -> GradientMethodState:
        mask = select(name, shared, tasks, paths_of(params))
        leaves = [leaf for leaf, selected in zip(jax.tree.leaves(params), mask, strict=True) if selected]
        return _initial_state(tasks, init(tuple(leaves)))

    def update_fn(
        updates: TaskGradients, state: GradientMethodState, params: optax.Params | None = None, **extra_args: object
    ) -> tuple[optax.Updates, GradientMethodState]:
        del extra_args
        task_gradients = _check_input(name, tasks, updates, state)
        all_leaves, mask, takes_part, structure = _differentiate(name, shared, backward, task_gradients, params)
        kept = [
            leaf if selected else jnp.zeros_like(leaf)
            for leaf, selected in zip(all_leaves, mask, strict=True)
            if selected or keeps_all
        ]
        stack = _stack(task_gradients, tuple(kept), takes_part)
        result = combine(stack, state.inner)
        task_specific_weights = jnp.where(takes_part, result.task_specific_weights, 1)
        made = iter(result.leaves)
        gradient = []
        for leaf, selected in zip(all_leaves, mask, strict=True):
            combined_leaf = next(made) if selected or keeps_all else leaf
            own = weighted_sum(task_specific_weights, leaf)
            gradient.append(combined_leaf.astype(leaf.dtype) if selected else own)
        weights = jnp.where(takes_part, result.task_weights, 1) * task_gradients.weights
        return jax.tree.unflatten(structure, gradient), _next_state(task_gradients, weights, stack, result.state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def weighted(
    name: str,
    tasks: Sequence[str],
    init: Callable[[], State],
    weigh: Callable[[Stack, State], tuple[Float[Array, "t"], State]],
    *,
    shared: Shared,
    backward: Backward,
    task_specific: TaskSpecific = "plain",
    max_norm: float | None = None,
    wrt: Wrt = "parameters",
) -> optax.GradientTransformationExtraArgs:
    """Builds a method whose gradient of the shared parameters is sum_i w_i g_i.

    Args:
        name: of the method, for error messages.
        tasks: task names.
        init: returns the initial state, a pytree of arrays whose shapes and dtypes `weigh` keeps.
        weigh: maps gradients and state to w, one weight per task, and the next state. Gradients, losses and state are
            constants in w, also for an outer derivative, as in meta-learning. The weight of an absent task, whose
            gradient is 0, may be any finite number. For "gram", it reads `Stack.gram`, not `Stack.leaves`.
        shared: which parameters count as shared; see `combined`.
        backward: "together" or "one_by_one"; see `combined`. "gram" computes the Gram matrix from batched backward
            passes whose gradients are not kept, then w, then the gradient of the weighted losses in one more pass. It
            needs the memory of few gradients instead of one per task. With features it equals "together".
        task_specific: the gradient of all parameters that are not shared: sum_i g_i ("plain") or sum_i w_i g_i
            ("weighted").
        max_norm: the norm to which the combined gradient of the shared parameters is clipped; None: no clipping.
        wrt: with "features", `weigh` receives the gradients with respect to the features that the tasks share. Only the
            layers after these run one backward pass per task. One full backward pass of the losses weighted by w then
            gives the gradient of all parameters, shared or not, as in the code of Sener and Koltun. (The papers'
            algorithms keep the plain gradient for the heads.) `shared` and `task_specific` have no effect then.

    Raises:
        ValueError: no task, a repeated name, an unknown choice, or `shared` given together with features.
    """
    tasks = check_tasks(tasks)
    choice(name, shared, tasks)
    check_choice(name, "backward", backward, ("together", "one_by_one", "gram"))
    check_choice(name, "wrt", wrt, ("parameters", "features"))
    if wrt == "features" and shared != "auto":
        raise ValueError(
            f"{name} shared is {shared!r} and wrt is 'features'; leave out shared, since with features all parameters "
            "get the gradient of the weighted losses"
        )

    def init_fn(params: optax.Params) -> GradientMethodState:
        select(name, shared, tasks, paths_of(params))
        return _initial_state(tasks, init())

    def over_parameters(
        updates: TaskGradients, state: GradientMethodState, params: optax.Params | None = None, **extra_args: object
    ) -> tuple[optax.Updates, GradientMethodState]:
        del extra_args
        task_gradients = _check_input(name, tasks, updates, state)
        leaves, mask, takes_part, structure = _differentiate(name, shared, backward, task_gradients, params)
        selected_leaves = tuple(leaf for leaf, selected in zip(leaves, mask, strict=True) if selected)
        stack = _constant(_stack(task_gradients, selected_leaves, takes_part))
        if backward == "gram":
            stack = stack._replace(known_gram=stack.gram, leaves=())
        weights, inner = weigh(stack, lax.stop_gradient(state.inner))
        weights = jnp.where(takes_part, weights, 1)
        factor = _clip_factor(stack.gram, weights, max_norm)
        again = leaves
        if backward == "gram":
            cotangent = weights * task_gradients.weights * task_gradients.present
            again = jax.tree.leaves(task_gradients.gradient(cotangent))
        gradient = []
        for leaf, leaf_again, selected in zip(leaves, again, mask, strict=True):
            if not selected and task_specific == "plain":
                gradient.append(weighted_sum(jnp.ones_like(weights), leaf))
            elif backward == "gram":
                gradient.append(leaf_again * jnp.asarray(factor if selected else 1, leaf_again.dtype))
            else:
                gradient.append(weighted_sum(weights * factor if selected else weights, leaf))
        logged = weights * task_gradients.weights
        return jax.tree.unflatten(structure, gradient), _next_state(task_gradients, logged, stack, inner)

    def over_features(
        updates: TaskGradients, state: GradientMethodState, params: optax.Params | None = None, **extra_args: object
    ) -> tuple[optax.Updates, GradientMethodState]:
        del extra_args
        task_gradients = _check_input(name, tasks, updates, state)
        features = per_task(task_gradients.feature_gradient, task_gradients, backward)
        takes_part = np.ones(len(tasks), bool)
        stack = _constant(
            _stack(task_gradients, tuple(jax.tree.leaves(features)), takes_part, task_gradients.axis_name)
        )
        weights, inner = weigh(stack, lax.stop_gradient(state.inner))
        weights = weights * task_gradients.weights
        gradient = check_gradient(task_gradients.gradient(weights), params)
        return gradient, _next_state(task_gradients, weights, stack, inner)

    update_fn = over_parameters if wrt == "parameters" else over_features
    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _stack(
    task_gradients: TaskGradients,
    leaves: tuple[Array, ...],
    takes_part: Bool[np.ndarray, "t"],
    axis_name: str | None = None,
) -> Stack:
    losses = task_gradients.losses * task_gradients.weights
    return Stack(leaves, losses, jnp.asarray(task_gradients.present) & takes_part, axis_name)


def _constant(stack: Stack) -> Stack:
    """The same, without derivatives."""
    return stack._replace(leaves=lax.stop_gradient(stack.leaves), losses=lax.stop_gradient(stack.losses))


def _initial_state(tasks: tuple[str, ...], inner: PyTree) -> GradientMethodState:
    count = len(tasks)
    return GradientMethodState(jnp.ones(count, jnp.float32), jnp.zeros((count, count), jnp.float32), inner)


def _next_state(
    task_gradients: TaskGradients, weights: Float[Array, "t"], stack: Stack, inner: PyTree
) -> GradientMethodState:
    count = len(task_gradients.tasks)
    gram = stack.gram if task_gradients.wants_gram else jnp.zeros((count, count))
    return GradientMethodState(weights.astype(jnp.float32), gram.astype(jnp.float32), inner)


def _clip_factor(gram: Float[Array, "t t"], weights: Float[Array, "t"], max_norm: float | None) -> Array | float:
    """The factor that clips sum_i w_i g_i to a norm of `max_norm`."""
    if max_norm is None:
        return 1.0
    norm = jnp.sqrt(jnp.maximum(weights @ gram @ weights, 0))
    return jnp.minimum(1, max_norm / jnp.maximum(norm, 1e-30))


def _check_input(name: str, tasks: tuple[str, ...], updates: object, state: object) -> TaskGradients:
    task_gradients = check_updates(updates, tasks, name)
    if not isinstance(state, GradientMethodState):
        raise TypeError(
            f"{name} got the state {type(state).__name__}, which is not its own; pass the state that init of the same "
            "chain made"
        )
    return task_gradients


def _differentiate(
    name: str, shared: Shared, backward: Backward, task_gradients: TaskGradients, params: optax.Params | None
) -> tuple[list[Float[Array, "t ..."]], list[bool], Bool[np.ndarray, "t"], PyTreeDef]:
    """The gradients of all tasks per parameter, whether it is shared, which tasks take part, and the structure."""
    gradients = check_gradient(per_task(task_gradients.gradient, task_gradients, backward), params)
    leaves, structure = jax.tree.flatten(gradients)
    mask, takes_part = find(name, shared, task_gradients.tasks, paths_of(gradients), task_gradients)
    return leaves, mask, takes_part, structure
