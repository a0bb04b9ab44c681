"""Optimizers from `config.optimizer`: clipping, weight decay and the update rule."""

import inspect
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.tree_util import DictKey
from jaxtyping import Array, Bool, PyTree

from mtan_jax.weighting.sharing import has_task_axis, task_of

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "sgd": optax.sgd,
}


def build_optimizer(config: ml_collections.ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Builds the part of the chain that follows the weighting methods.

    Args:
        config: `config.optimizer` with the fields `name`, `options` (keyword arguments of the optax optimizer),
            `clip_norm` (largest global norm of the gradient, or None) and `weight_decay` (L2 regularization as in
            PyTorch's SGD: this multiple of the parameters is added to the gradient).
        schedule: the learning-rate schedule.

    Raises:
        ValueError: the optimizer or an option is unknown, `clip_norm` is not positive, or `weight_decay` is negative.
    """
    if config.name not in OPTIMIZERS:
        raise ValueError(f"config.optimizer.name={config.name!r} is unknown; known: {', '.join(sorted(OPTIMIZERS))}")
    make = OPTIMIZERS[config.name]
    known = list(inspect.signature(make).parameters)[1:]  # without the learning rate
    for option in config.options:
        if option not in known:
            raise ValueError(
                f"config.optimizer.options.{option} is no option of {config.name}; known: {', '.join(known)}"
            )
    options = dict(config.options)
    if config.name == "adamw":
        options.setdefault("mask", _decay_mask)
    parts = [make(schedule, **options)]
    if not 0 <= config.weight_decay < math.inf:
        raise ValueError(f"config.optimizer.weight_decay={config.weight_decay}; expected a finite number >= 0")
    if config.weight_decay:
        parts.insert(0, optax.add_decayed_weights(config.weight_decay, mask=_decay_mask))
    if config.clip_norm is not None:
        if not config.clip_norm > 0:
            raise ValueError(f"config.optimizer.clip_norm={config.clip_norm}; expected a positive number or None")
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def _decay_mask(params: optax.Params) -> PyTree[bool]:
    """Excludes the scores of Piggyback's masks from weight decay, which would pull them below the threshold."""
    return jax.tree.map_with_path(lambda path, _: not path or path[-1].key != "own_scores", params)


def skip_absent_tasks(
    inner: optax.GradientTransformation, tasks: tuple[str, ...], always: Sequence[str] = ()
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that it does not update the parameters of tasks without examples in the batch.

    Without it, momentum, weight decay and Adam's moments keep changing task-specific parameters (adapters, heads,
    attention masks) in the steps of other tasks, although their gradient is 0. PyTorch's optimizers behave like this
    for zero gradients, and skip parameters whose gradient is None. Shared parameters are updated in every step.

    Args:
        inner: the optimizer. The parts of its state that are shaped like the parameters are skipped too. The step
            counter of Adam's bias correction counts the steps of all tasks.
        tasks: task names in the order of `present`, which is an extra argument of every update.
        always: tasks that are updated in every step.
    """
    inner = optax.with_extra_args_support(inner)
    is_always_updated = np.array([task in always for task in tasks])

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **extra_args: object
    ) -> tuple[optax.Updates, optax.OptState]:
        new_updates, new_state = inner.update(updates, state, params, **extra_args)
        is_updated = _updated_leaves(updates, tasks, extra_args["present"] | is_always_updated)
        keep = optax.tree_utils.tree_map_params(
            inner, lambda _, leaf: leaf, state, is_updated, transform_non_params=lambda _: jnp.ones((), bool)
        )
        new_state = jax.tree.map(jnp.where, keep, new_state, state)
        return jax.tree.map(lambda mask, leaf: jnp.where(mask, leaf, 0), is_updated, new_updates), new_state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _updated_leaves(
    updates: optax.Updates, tasks: tuple[str, ...], present: Bool[Array, "t"]
) -> PyTree[Bool[Array, "..."]]:
    """For each leaf, or each task's row of it, whether it is updated."""

    def leaf_mask(path: tuple[DictKey, ...], leaf: Array) -> Bool[Array, "..."]:
        keys = tuple(key.key for key in path)
        if has_task_axis(keys):
            return present.reshape(-1, *(1,) * (leaf.ndim - 1))
        task = task_of(keys, tasks)
        mask = jnp.ones((), bool) if task is None else present[tasks.index(task)]
        return mask.reshape((1,) * leaf.ndim)

    return jax.tree.map_with_path(leaf_mask, updates)
