"""Methods that combine the gradients of single tasks: what they are given, and how one is made.

A gradient method stands in the place of `sum_tasks`, last of the weighting methods:

    tx = optax.chain(dwa(tasks, steps_per_epoch=397), pcgrad(tasks), optax.adam(1e-4))

It runs one backward pass a task. What it does concerns the shared parameters; every other parameter gets the plain
gradient of the weighted sum of the losses, which those passes hold too.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float

from mtan_jax.runtime import collectives
from mtan_jax.weighting.core import TaskGradients, check_tasks, check_updates
from mtan_jax.weighting.sharing import SHARED, has_task_axis, part_of

State = TypeVar("State")
Path = tuple[str, ...]
Shared = Literal["all_but_heads", "backbone"] | Callable[[Path], bool]
Backward = Literal["together", "one_by_one"]
Own = Literal["plain", "weighted"]
Wrt = Literal["parameters", "features"]


class Stack(NamedTuple):
    """The gradients of all tasks with respect to the shared parameters, of the whole batch, or to shared features.

    Attributes:
        leaves: the shared parameters' gradients, each [t, ...]; those of absent tasks are 0. Of features, those of this
            device's rows.
        losses: as the methods before weighted them.
        present: tasks that have a label in the batch.
        axis_name: of the devices that hold each a part of the leaves; None where each holds all.
    """

    leaves: tuple[Float[Array, "t ..."], ...]
    losses: Float[Array, "t"]
    present: Bool[Array, "t"]
    axis_name: str | None = None

    @property
    def gram(self) -> Float[Array, "t t"]:
        """G_ij = <g_i, g_j>, in float32 at least."""
        return collectives.total(gram_of(self.leaves), self.axis_name)


def gram_of(leaves: Sequence[Float[Array, "t ..."]]) -> Float[Array, "t t"]:
    """The inner products of all pairs of rows, summed over the leaves, in float32 at least."""
    flat = [leaf.reshape(len(leaf), -1) for leaf in leaves]
    flat = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in flat]
    products = [jnp.matmul(leaf, leaf.T, precision=lax.Precision.HIGHEST) for leaf in flat]
    return sum(products[1:], products[0])


class GradientMethodState(NamedTuple):
    """State of a gradient method.

    Attributes:
        task_weights: what each task's gradient was multiplied with at the last step, all methods together; 1 before
            the first.
        inner: what the method itself keeps.
    """

    task_weights: Float[Array, "t"]
    inner: Any


class Combined(NamedTuple):
    """What a gradient method makes of a `Stack`.

    Attributes:
        leaves: the combined gradient, as `Stack.leaves` without the tasks.
        task_weights: what each task's gradient counts with in it, for the log.
        own: what the gradients of the parameters that are not shared are multiplied with.
        state: of the method, after this step.
    """

    leaves: tuple[Float[Array, "..."], ...]
    task_weights: Float[Array, "t"]
    own: Float[Array, "t"]
    state: Any


def combined(
    name: str,
    tasks: Sequence[str],
    init: Callable[[tuple[Array, ...]], Any],
    combine: Callable[[Stack, Any], Combined],
    *,
    shared: Shared,
    backward: Backward,
) -> optax.GradientTransformationExtraArgs:
    """A method whose gradient of the shared parameters is any function of the tasks' gradients.

    Args:
        name: of the method, for messages.
        tasks: names, in the order of the losses.
        init: from the shared parameters to the state before the first step, a pytree of arrays whose shapes and types
            `combine` keeps.
        combine: from the gradients and the state to the combined gradient and the next state. It is not differentiated.
        shared: which parameters all tasks share. Published codes differ: "all_but_heads" (Nash-MTL, FAMO) or
            "backbone" (CAGrad: without the attention masks of single tasks); or a function of a parameter's path, such
            as ("backbone", "encoder_0", "layer_0", "conv", "conv", "kernel").
        backward: "together", one batched pass for all tasks, or "one_by_one", a longer program to compile.

    Raises:
        ValueError: no task, one named twice, or an unknown choice.
    """
    tasks = check_tasks(tasks)
    is_shared = _choose(name, shared, tasks)
    _check_choice(name, "backward", backward, ("together", "one_by_one"))

    def mask(flat: Sequence[tuple[Any, Any]]) -> list[bool]:
        chosen = [is_shared(_keys(path)) for path, _ in flat]
        if not any(chosen):
            found = sorted({"/".join(_keys(path[:1])) for path, _ in flat})
            raise ValueError(
                f"{name} shared={shared!r} chooses none of the parameters {found}: the tasks share nothing that is "
                "trained"
            )
        return chosen

    def init_fn(params: optax.Params) -> GradientMethodState:
        flat, _ = jax.tree.flatten_with_path(params)
        chosen = mask(flat) if flat else []
        leaves = tuple(leaf for (_, leaf), c in zip(flat, chosen, strict=True) if c)
        return GradientMethodState(jnp.ones(len(tasks), jnp.float32), init(leaves))

    def update_fn(
        updates: TaskGradients, state: GradientMethodState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, GradientMethodState]:
        del params, extra_args
        task_gradients = check_updates(updates, tasks, name)
        flat, structure = jax.tree.flatten_with_path(_of_each_task(task_gradients.gradient, task_gradients, backward))
        chosen = mask(flat)
        stack = _stack(task_gradients, tuple(leaf for (_, leaf), c in zip(flat, chosen, strict=True) if c))
        found = combine(stack, state.inner)
        leaves = iter(found.leaves)
        gradient = [
            next(leaves).astype(leaf.dtype) if c else weighted_sum(found.own, leaf)
            for (_, leaf), c in zip(flat, chosen, strict=True)
        ]
        logged = (found.task_weights * task_gradients.weights).astype(jnp.float32)
        return jax.tree.unflatten(structure, gradient), GradientMethodState(logged, found.state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def weighted(
    name: str,
    tasks: Sequence[str],
    init: Callable[[], State],
    weigh: Callable[[Stack, State], tuple[Float[Array, "t"], State]],
    *,
    shared: Shared,
    backward: Backward,
    own: Own = "plain",
    max_norm: float | None = None,
    wrt: Wrt = "parameters",
) -> optax.GradientTransformationExtraArgs:
    """A method whose gradient of the shared parameters is sum_i w_i g_i.

    Args:
        name: of the method, for messages.
        tasks: names, in the order of the losses.
        init: makes the state before the first step, a pytree of arrays whose shapes and types `weigh` keeps.
        weigh: from the gradients and the state to w, one a task, and the next state. w is a constant: it is not
            differentiated. Of absent tasks, whose gradients are 0, it may be anything finite.
        shared: which parameters all tasks share; see `combined`.
        backward: "together" or "one_by_one"; see there.
        own: whether the parameters that are not shared get the plain gradient, sum_i g_i, or that with w too.
        max_norm: that the combined gradient of the shared parameters is shortened to; None: any.
        wrt: "parameters", or "features": `weigh` sees the gradients with respect to the features that the tasks share.
            Only what stands behind these is passed once a task; then one backward pass of the losses weighted by w
            gives the gradient of all parameters, shared or not, as in the code of Sener and Koltun. (In the papers'
            algorithms heads keep the plain gradient.) `shared` and `own` choose nothing then.

    Raises:
        ValueError: no task, one named twice, an unknown choice, or `shared` is given together with features.
    """
    _check_choice(name, "wrt", wrt, ("parameters", "features"))
    if wrt == "features" and shared != "all_but_heads":
        raise ValueError(
            f"{name} shared is {shared!r} and wrt is 'features': all parameters have the gradient of the weighted "
            "losses then, so shared must be left out"
        )

    def combine(stack: Stack, state: State) -> Combined:
        weights, state = weigh(stack, state)
        factor = _clip(stack.gram, weights, max_norm)
        leaves = tuple(weighted_sum(weights * factor, leaf) for leaf in stack.leaves)
        return Combined(leaves, weights, weights if own == "weighted" else jnp.ones_like(weights), state)

    of_parameters = combined(name, tasks, lambda leaves: init(), combine, shared=shared, backward=backward)
    if wrt == "parameters":
        return of_parameters
    tasks = check_tasks(tasks)

    def update_fn(
        updates: TaskGradients, state: GradientMethodState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, GradientMethodState]:
        del params, extra_args
        task_gradients = check_updates(updates, tasks, name)
        features = _of_each_task(task_gradients.feature_gradient, task_gradients, backward)
        stack = _stack(task_gradients, tuple(jax.tree.leaves(features)), task_gradients.axis_name)
        weights, inner = weigh(stack, state.inner)
        weights = weights * task_gradients.weights
        return task_gradients.gradient(weights), GradientMethodState(weights.astype(jnp.float32), inner)

    return optax.GradientTransformationExtraArgs(of_parameters.init, update_fn)


def _stack(task_gradients: TaskGradients, leaves: tuple[Array, ...], axis_name: str | None = None) -> Stack:
    losses = task_gradients.losses * task_gradients.weights
    return Stack(leaves, losses, jnp.asarray(task_gradients.present), axis_name)


def weighted_sum(weights: Float[Array, "t"], leaf: Float[Array, "t ..."]) -> Float[Array, "..."]:
    """sum_i w_i of the rows of a leaf."""
    return jnp.tensordot(weights.astype(leaf.dtype), leaf, 1)


def _clip(gram: Float[Array, "t t"], weights: Float[Array, "t"], max_norm: float | None) -> Float[Array, ""] | float:
    """The factor that brings sum_i w_i g_i to a norm of `max_norm` at most."""
    if max_norm is None:
        return 1.0
    norm = jnp.sqrt(jnp.maximum(weights @ gram @ weights, 0))
    return jnp.minimum(1, max_norm / jnp.maximum(norm, 1e-30))


def _of_each_task(
    gradient: Callable[[Float[Array, "t"]], Any], task_gradients: TaskGradients, backward: Backward
) -> Any:
    """Gradients of the weighted losses, each leaf [t, ...]."""
    cotangents = jnp.diag(task_gradients.weights * task_gradients.present)
    chosen = task_gradients.chosen
    if chosen is not None:
        cotangents = cotangents[chosen]
    gradients = _gradients(gradient, cotangents, backward)
    if chosen is None:
        return gradients
    count = len(task_gradients.tasks)
    return jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape[1:]), leaf.dtype).at[chosen].set(leaf), gradients)


def _gradients(
    gradient: Callable[[Float[Array, "t"]], Any], cotangents: Float[Array, "n t"], backward: Backward
) -> Any:
    if backward == "together":
        return jax.vmap(gradient)(cotangents)
    # Unrolled, as XLA for CPUs runs convolutions in a loop many times slower; each waits for the one before.
    gradients: list[Any] = []
    for cotangent in cotangents:
        if gradients:
            cotangent, gradients[-1] = lax.optimization_barrier((cotangent, gradients[-1]))
        gradients.append(gradient(cotangent))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients)


def _check_choice(name: str, option: str, value: str, known: tuple[str, str]) -> None:
    if value not in known:
        raise ValueError(f"{name} {option} is {value!r}: {known[0]!r} or {known[1]!r} is needed")


def _choose(name: str, shared: Shared, tasks: tuple[str, ...]) -> Callable[[Path], bool]:
    if callable(shared):
        return shared
    if shared == "backbone":
        return lambda path: part_of(path, tasks) == SHARED
    if shared == "all_but_heads":
        return lambda path: not (has_task_axis(path) or any(key.startswith("head_") for key in path))
    raise ValueError(f"{name} shared is {shared!r}: 'all_but_heads', 'backbone' or a function of the path is needed")


def _keys(path: Sequence[Any]) -> Path:
    return tuple(str(getattr(key, "key", key)) for key in path)
