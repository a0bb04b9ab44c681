"""The backward passes of gradient methods: one per task, batched or one after another."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from mtan_jax.weighting.core import TaskGradients

Backward = Literal["together", "one_by_one", "gram"]


def per_task(
    gradient: Callable[[Float[Array, "t"]], PyTree], task_gradients: TaskGradients, backward: Backward
) -> PyTree:
    """The gradients of the weighted losses, each leaf [t, ...]; 0 for absent tasks.

    Args:
        gradient: maps a cotangent of the losses to a gradient, in one backward pass.
        task_gradients: of the step.
        backward: "one_by_one", or batched.
    """
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
    if backward != "one_by_one":
        return jax.vmap(gradient)(cotangents)
    # Unrolled, because XLA for CPUs runs convolutions in a loop many times slower. Each pass waits for the one before.
    gradients: list[PyTree] = []
    for cotangent in cotangents:
        if gradients:
            cotangent, gradients[-1] = lax.optimization_barrier((cotangent, gradients[-1]))
        gradients.append(gradient(cotangent))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients)
