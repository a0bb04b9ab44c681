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

from mtan_jax.parts import SHARED, part_of
from mtan_jax.weighting.core import TaskGradients, check_tasks, check_updates

State = TypeVar("State")
Path = tuple[str, ...]
Shared = Literal["all_but_heads", "backbone"] | Callable[[Path], bool]
Backward = Literal["together", "one_by_one"]
Own = Literal["plain", "weighted"]


class Stack(NamedTuple):
    """The gradients of all tasks with respect to the shared parameters, of the whole batch.

    Attributes:
        leaves: the shared parameters' gradients, each [t, ...]; those of absent tasks are 0.
        losses: as the methods before weighted them.
        present: tasks that have a label in the batch.
    """

    leaves: tuple[Float[Array, "t ..."], ...]
    losses: Float[Array, "t"]
    present: Bool[Array, "t"]

    @property
    def gram(self) -> Float[Array, "t t"]:
        """G_ij = <g_i, g_j>, in float32 at least."""
        flat = [leaf.reshape(len(leaf), -1) for leaf in self.leaves]
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
) -> optax.GradientTransformationExtraArgs:
    """A method whose gradient of the shared parameters is sum_i w_i g_i.

    Args:
        name: of the method, for messages.
        tasks: names, in the order of the losses.
        init: makes the state before the first step, a pytree of arrays whose shapes and types `weigh` keeps.
        weigh: from the gradients and the state to w, one a task, and the next state. w is a constant: it is not
            differentiated. Of absent tasks, whose gradients are 0, it may be anything finite.
        shared: which parameters all tasks share. Published codes differ: "all_but_heads" (Nash-MTL, FAMO) or
            "backbone" (CAGrad: without the attention masks of single tasks); or a function of a parameter's path, such
            as ("backbone", "encoder_0", "layer_0", "conv", "conv", "kernel").
        backward: "together", one batched pass for all tasks, or "one_by_one": slower, with the memory of one.
        own: whether the parameters that are not shared get the plain gradient, sum_i g_i, or that with w too.
        max_norm: that the combined gradient of the shared parameters is shortened to; None: any.

    Raises:
        ValueError: no task, one named twice, or an unknown choice.
    """
    tasks = check_tasks(tasks)
    is_shared = _choose(name, shared, tasks)
    if backward not in ("together", "one_by_one"):
        raise ValueError(f"{name} backward is {backward!r}: 'together' or 'one_by_one' is needed")

    def init_fn(params: optax.Params) -> GradientMethodState:
        del params
        return GradientMethodState(jnp.ones(len(tasks), jnp.float32), init())

    def update_fn(
        updates: TaskGradients, state: GradientMethodState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, GradientMethodState]:
        del params, extra_args
        task_gradients = check_updates(updates, tasks, name)
        gradients = _of_each_task(task_gradients, backward)
        flat, structure = jax.tree.flatten_with_path(gradients)
        leaves = [leaf for _, leaf in flat]
        mask = [is_shared(_keys(path)) for path, _ in flat]
        if not any(mask):
            found = sorted({"/".join(_keys(path[:1])) for path, _ in flat})
            raise ValueError(f"{name} shared={shared!r} chooses none of the parameters {found}")
        chosen = tuple(leaf for leaf, chosen in zip(leaves, mask, strict=True) if chosen)
        stack = Stack(chosen, task_gradients.losses * task_gradients.weights, jnp.asarray(task_gradients.present))
        weights, inner = weigh(stack, state.inner)
        of_own = weights if own == "weighted" else jnp.ones_like(weights)
        factor = _clip(stack.gram, weights, max_norm)
        combined = [
            jnp.tensordot(w.astype(leaf.dtype), leaf, 1)
            for leaf, w in zip(leaves, (weights * factor if chosen else of_own for chosen in mask), strict=True)
        ]
        logged = (weights * task_gradients.weights).astype(jnp.float32)
        return jax.tree.unflatten(structure, combined), GradientMethodState(logged, inner)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _clip(gram: Float[Array, "t t"], weights: Float[Array, "t"], max_norm: float | None) -> Float[Array, ""] | float:
    """The factor that brings sum_i w_i g_i to a norm of `max_norm` at most."""
    if max_norm is None:
        return 1.0
    norm = jnp.sqrt(jnp.maximum(weights @ gram @ weights, 0))
    return jnp.minimum(1, max_norm / jnp.maximum(norm, 1e-30))


def _of_each_task(task_gradients: TaskGradients, backward: Backward) -> optax.Updates:
    """Gradients of the weighted losses, each leaf [t, ...]."""
    cotangents = jnp.diag(task_gradients.weights * task_gradients.present)
    if backward == "together":
        return jax.vmap(task_gradients.gradient)(cotangents)
    return lax.map(task_gradients.gradient, cotangents)


def _choose(name: str, shared: Shared, tasks: tuple[str, ...]) -> Callable[[Path], bool]:
    if callable(shared):
        return shared
    if shared == "backbone":
        return lambda path: part_of(path, tasks) == SHARED
    if shared == "all_but_heads":
        return lambda path: not any(key.startswith("head_") for key in path)
    raise ValueError(f"{name} shared is {shared!r}: 'all_but_heads', 'backbone' or a function of the path is needed")


def _keys(path: Sequence[Any]) -> Path:
    return tuple(str(getattr(key, "key", key)) for key in path)
