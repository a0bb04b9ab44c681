"""Builds methods that combine the gradients of the tasks.

A gradient method takes the place of `sum_tasks`, after all balancers:

    tx = optax.chain(dwa(tasks, steps_per_epoch=397), pcgrad(tasks), optax.adam(1e-4))

It runs one backward pass per task. The method determines the gradient of the shared parameters. All other parameters
get the plain gradient of the weighted sum of the losses, from the same backward passes.
"""

from collections.abc import Callable, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from mtan_jax.runtime import collectives
from mtan_jax.types import Path
from mtan_jax.weighting.core import TaskGradients, check_tasks, check_updates
from mtan_jax.weighting.sharing import SHARED, has_task_axis, part_of

State = TypeVar("State")
Shared = Literal["all_but_heads", "backbone"] | Callable[[Path], bool]
Backward = Literal["together", "one_by_one"]
TaskSpecific = Literal["plain", "weighted"]
Wrt = Literal["parameters", "features"]
_KeyPath = tuple[object, ...]


class Stack(NamedTuple):
    """The gradients of all tasks over the global batch, with respect to the shared parameters or to shared features.

    Attributes:
        leaves: one array [t, ...] per shared parameter; 0 for absent tasks. For features, this device's rows.
        losses: the losses, weighted by the methods before.
        present: tasks that have a label in the batch.
        axis_name: the axis of devices that each hold a part of the leaves; None if every device holds all of them.
    """

    leaves: tuple[Float[Array, "t ..."], ...]
    losses: Float[Array, "t"]
    present: Bool[Array, "t"]
    axis_name: str | None = None

    @property
    def gram(self) -> Float[Array, "t t"]:
        """The Gram matrix G_ij = <g_i, g_j>, in float32 or wider."""
        return collectives.total(gram_of(self.leaves), self.axis_name)


def gram_of(leaves: Sequence[Float[Array, "t ..."]]) -> Float[Array, "t t"]:
    """The inner products of all pairs of rows, summed over the leaves, in float32 or wider."""
    flat = [leaf.reshape(len(leaf), -1) for leaf in leaves]
    flat = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in flat]
    products = [jnp.matmul(leaf, leaf.T, precision=lax.Precision.HIGHEST) for leaf in flat]
    return sum(products[1:], products[0])


class GradientMethodState(NamedTuple):
    """State of a gradient method.

    Attributes:
        task_weights: factor of each task's gradient at the last step, the product over all methods; 1 before the first
            step.
        inner: the method's own state.
    """

    task_weights: Float[Array, "t"]
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
) -> optax.GradientTransformationExtraArgs:
    """Builds a method whose gradient of the shared parameters is any function of the task gradients.

    Args:
        name: of the method, for error messages.
        tasks: task names, in the order of the losses.
        init: maps the shared parameters to the initial state, a pytree of arrays whose shapes and dtypes `combine`
            keeps.
        combine: maps gradients and state to the combined gradient and the next state. Nothing is differentiated through
            it.
        shared: which parameters count as shared. Published codes differ: "all_but_heads" (Nash-MTL, FAMO) or "backbone"
            (CAGrad; excludes the attention masks). Or a function of a parameter's path, such as
            ("backbone", "encoder_0", "layer_0", "conv", "conv", "kernel").
        backward: "together" batches the backward passes of all tasks; "one_by_one" unrolls them, which makes a longer
            program to compile.

    Raises:
        ValueError: no task, a repeated name, or an unknown choice.
    """
    tasks = check_tasks(tasks)
    is_shared = _shared_predicate(name, shared, tasks)
    _check_choice(name, "backward", backward, ("together", "one_by_one"))

    def shared_mask(flat: Sequence[tuple[_KeyPath, Array]]) -> list[bool]:
        mask = [is_shared(_keys(path)) for path, _ in flat]
        if not any(mask):
            found = sorted({"/".join(_keys(path[:1])) for path, _ in flat})
            raise ValueError(
                f"{name} shared={shared!r} selects none of the parameters {found}; select at least one that is trained"
            )
        return mask

    def init_fn(params: optax.Params) -> GradientMethodState:
        flat, _ = jax.tree.flatten_with_path(params)
        mask = shared_mask(flat) if flat else []
        leaves = tuple(leaf for (_, leaf), selected in zip(flat, mask, strict=True) if selected)
        return GradientMethodState(jnp.ones(len(tasks), jnp.float32), init(leaves))

    def update_fn(
        updates: TaskGradients, state: GradientMethodState, params: optax.Params | None = None, **extra_args: object
    ) -> tuple[optax.Updates, GradientMethodState]:
        del params, extra_args
        task_gradients = check_updates(updates, tasks, name)
        gradients = _per_task(task_gradients.gradient, task_gradients, backward)
        flat, structure = jax.tree.flatten_with_path(gradients)
        mask = shared_mask(flat)
        stack = _stack(task_gradients, tuple(leaf for (_, leaf), selected in zip(flat, mask, strict=True) if selected))
        result = combine(stack, state.inner)
        leaves = iter(result.leaves)
        gradient = [
            next(leaves).astype(leaf.dtype) if selected else weighted_sum(result.task_specific_weights, leaf)
            for (_, leaf), selected in zip(flat, mask, strict=True)
        ]
        logged = (result.task_weights * task_gradients.weights).astype(jnp.float32)
        return jax.tree.unflatten(structure, gradient), GradientMethodState(logged, result.state)

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
        tasks: task names, in the order of the losses.
        init: returns the initial state, a pytree of arrays whose shapes and dtypes `weigh` keeps.
        weigh: maps gradients and state to w, one weight per task, and the next state. w is treated as a constant. The
            weight of an absent task, whose gradient is 0, may be any finite number.
        shared: which parameters count as shared; see `combined`.
        backward: "together" or "one_by_one"; see `combined`.
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
    _check_choice(name, "wrt", wrt, ("parameters", "features"))
    if wrt == "features" and shared != "all_but_heads":
        raise ValueError(
            f"{name} shared is {shared!r} and wrt is 'features'; leave out shared, since with features all parameters "
            "get the gradient of the weighted losses"
        )

    def combine(stack: Stack, state: State) -> Combined[State]:
        weights, state = weigh(stack, state)
        factor = _clip_factor(stack.gram, weights, max_norm)
        leaves = tuple(weighted_sum(weights * factor, leaf) for leaf in stack.leaves)
        return Combined(leaves, weights, weights if task_specific == "weighted" else jnp.ones_like(weights), state)

    over_parameters = combined(name, tasks, lambda leaves: init(), combine, shared=shared, backward=backward)
    if wrt == "parameters":
        return over_parameters
    tasks = check_tasks(tasks)

    def update_fn(
        updates: TaskGradients, state: GradientMethodState, params: optax.Params | None = None, **extra_args: object
    ) -> tuple[optax.Updates, GradientMethodState]:
        del params, extra_args
        task_gradients = check_updates(updates, tasks, name)
        features = _per_task(task_gradients.feature_gradient, task_gradients, backward)
        stack = _stack(task_gradients, tuple(jax.tree.leaves(features)), task_gradients.axis_name)
        weights, inner = weigh(stack, state.inner)
        weights = weights * task_gradients.weights
        return task_gradients.gradient(weights), GradientMethodState(weights.astype(jnp.float32), inner)

    return optax.GradientTransformationExtraArgs(over_parameters.init, update_fn)


def _stack(task_gradients: TaskGradients, leaves: tuple[Array, ...], axis_name: str | None = None) -> Stack:
    losses = task_gradients.losses * task_gradients.weights
    return Stack(leaves, losses, jnp.asarray(task_gradients.present), axis_name)


def weighted_sum(weights: Float[Array, "t"], leaf: Float[Array, "t ..."]) -> Float[Array, "..."]:
    """The sum of a leaf's rows, each multiplied by its task's weight."""
    return jnp.tensordot(weights.astype(leaf.dtype), leaf, 1)


def _clip_factor(gram: Float[Array, "t t"], weights: Float[Array, "t"], max_norm: float | None) -> Array | float:
    """The factor that clips sum_i w_i g_i to a norm of `max_norm`."""
    if max_norm is None:
        return 1.0
    norm = jnp.sqrt(jnp.maximum(weights @ gram @ weights, 0))
    return jnp.minimum(1, max_norm / jnp.maximum(norm, 1e-30))


def _per_task(
    gradient: Callable[[Float[Array, "t"]], PyTree], task_gradients: TaskGradients, backward: Backward
) -> PyTree:
    """The gradients of the weighted losses, each leaf [t, ...]."""
    cotangents = jnp.diag(task_gradients.weights * task_gradients.present)
    indices = task_gradients.task_indices
    if indices is not None:
        cotangents = cotangents[indices]
    gradients = _per_cotangent(gradient, cotangents, backward)
    if indices is None:
        return gradients
    count = len(task_gradients.tasks)
    return jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape[1:]), leaf.dtype).at[indices].set(leaf), gradients)


def _per_cotangent(
    gradient: Callable[[Float[Array, "t"]], PyTree], cotangents: Float[Array, "n t"], backward: Backward
) -> PyTree:
    if backward == "together":
        return jax.vmap(gradient)(cotangents)
    # Unrolled, because XLA for CPUs runs convolutions in a loop many times slower. Each pass waits for the one before.
    gradients: list[PyTree] = []
    for cotangent in cotangents:
        if gradients:
            cotangent, gradients[-1] = lax.optimization_barrier((cotangent, gradients[-1]))
        gradients.append(gradient(cotangent))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients)


def _check_choice(name: str, option: str, value: str, known: tuple[str, str]) -> None:
    if value not in known:
        raise ValueError(f"{name} {option} is {value!r}; expected {known[0]!r} or {known[1]!r}")


def _shared_predicate(name: str, shared: Shared, tasks: tuple[str, ...]) -> Callable[[Path], bool]:
    if callable(shared):
        return shared
    if shared == "backbone":
        return lambda path: part_of(path, tasks) == SHARED
    if shared == "all_but_heads":
        return lambda path: not (has_task_axis(path) or any(key.startswith("head_") for key in path))
    raise ValueError(f"{name} shared is {shared!r}; expected 'all_but_heads', 'backbone' or a function of the path")


def _keys(path: _KeyPath) -> Path:
    return tuple(str(getattr(key, "key", key)) for key in path)
