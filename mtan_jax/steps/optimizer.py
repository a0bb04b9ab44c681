"""Optimisers and schedules of the learning rate, from `config.optimizer`."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array, Bool

from mtan_jax.weighting.sharing import has_task_axis, task_of

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "sgd": optax.sgd,
}
SCHEDULES = ("constant", "halve", "cosine", "pieces")


def build_schedule(
    config: ml_collections.ConfigDict, total_steps: int, to_steps: Callable[[str], int]
) -> optax.Schedule:
    """The learning rate as a function of the step.

    Args:
        config: `config.optimizer`: `learning_rate`; `schedule`: "constant", "halve" (the rate is halved every
            `halve_every`), "cosine" (to 0 at the end) or "pieces" (`pieces`: pairs of a duration and the rate from then
            on); `warmup`: a duration of linear growth from 0, or None, which the rest of a schedule begins after.
        total_steps: length of the run.
        to_steps: from a duration such as "100 epochs" to steps.

    Raises:
        ValueError: for an unknown schedule, or a rate that is not above 0.
    """
    rate = config.learning_rate
    if not 0 < rate < math.inf:
        raise ValueError(f"config.optimizer.learning_rate = {rate}: a finite number above 0 is needed")
    warmup_steps = 0 if config.warmup is None else to_steps(config.warmup)
    if config.schedule == "constant":
        schedule = optax.constant_schedule(rate)
    elif config.schedule == "halve":
        schedule = optax.exponential_decay(rate, to_steps(config.halve_every), 0.5, staircase=True)
    elif config.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(rate, max(total_steps - warmup_steps, 1))
    elif config.schedule == "pieces":
        schedule = _pieces(rate, config.pieces, to_steps, is_trial=total_steps == 1)
    else:
        raise ValueError(f"config.optimizer.schedule = {config.schedule!r} is not known; known: {', '.join(SCHEDULES)}")
    if not warmup_steps:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup_steps), schedule], [warmup_steps])


def _decayed(params: optax.Params) -> Any:
    """All but the scores of Piggyback's masks: decay would bring them below the threshold, and the masks to 0."""
    return jax.tree.map_with_path(lambda path, _: not path or path[-1].key != "own_scores", params)


def _pieces(
    rate: float, pieces: Sequence[tuple[str, float]], to_steps: Callable[[str], int], *, is_trial: bool
) -> optax.Schedule:
    """Constant rates, one after the other; in a trial without data their order is not known yet."""
    boundaries, rates = [], [rate]
    for piece in pieces:
        if len(piece) != 2 or not 0 < piece[1] < math.inf:
            raise ValueError(
                f"config.optimizer.pieces has {piece!r}: a duration and a finite rate above 0 are needed, such as "
                "('50 epochs', 0.05)"
            )
        boundaries.append(to_steps(piece[0]))
        rates.append(piece[1])
    if boundaries != sorted(boundaries) and not is_trial:
        raise ValueError(f"config.optimizer.pieces = {pieces!r}: each must begin after the one before")
    return optax.join_schedules([optax.constant_schedule(value) for value in rates], boundaries)


def rest_absent(
    inner: optax.GradientTransformation, tasks: tuple[str, ...], but: Sequence[str] = ()
) -> optax.GradientTransformationExtraArgs:
    """An optimiser that leaves alone what belongs to tasks that a step has no example of.

    Without it, momentum, weight decay and the averages of Adam go on changing adapters, heads and attention masks of
    tasks whose gradient is 0 because another task's turn it is. (PyTorch's optimisers do so where gradients are zeros,
    and leave them where they are None.) What tasks share is updated at each step.

    Args:
        inner: the optimiser; its state has parts shaped like the parameters, which rest too. One that counts its steps
            to correct its averages (Adam) would count those of other tasks.
        tasks: in the order of `present`, which every update is given.
        but: those that do not rest.
    """
    inner = optax.with_extra_args_support(inner)
    restless = np.array([task in but for task in tasks])

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        new_updates, new_state = inner.update(updates, state, params, **extra_args)
        moving = _moving(updates, tasks, extra_args["present"] | restless)
        kept = optax.tree_utils.tree_map_params(
            inner, lambda _, moves: moves, state, moving, transform_non_params=lambda _: jnp.ones((), bool)
        )
        new_state = jax.tree.map(jnp.where, kept, new_state, state)
        return jax.tree.map(lambda moves, leaf: jnp.where(moves, leaf, 0), moving, new_updates), new_state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _moving(tree: Any, tasks: tuple[str, ...], present: Bool[Array, "t"]) -> Any:
    """For each leaf, or for each task's part of it, whether a step may change it."""

    def of_leaf(path: Any, leaf: Array) -> Bool[Array, "..."]:
        keys = tuple(key.key for key in path)
        if has_task_axis(keys):
            return present.reshape(-1, *(1,) * (leaf.ndim - 1))
        task = task_of(keys, tasks)
        moves = jnp.ones((), bool) if task is None else present[tasks.index(task)]
        return moves.reshape((1,) * leaf.ndim)

    return jax.tree.map_with_path(of_leaf, tree)


def build_optimizer(config: ml_collections.ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """What follows the weighting methods: clipping and weight decay, if any, and the optimiser.

    Args:
        config: `config.optimizer`: `name`, its `options`, `clip_norm` (the largest global norm, or None) and
            `weight_decay` (what the parameters are multiplied with and added to the gradient, as PyTorch's SGD does).
        schedule: of the learning rate.

    Raises:
        ValueError: for an unknown optimiser or option, a norm that is not above 0, or a negative decay.
    """
    if config.name not in OPTIMIZERS:
        raise ValueError(
            f"config.optimizer.name = {config.name!r} is not known; known: {', '.join(sorted(OPTIMIZERS))}"
        )
    make = OPTIMIZERS[config.name]
    known = list(inspect.signature(make).parameters)[1:]  # without the learning rate
    for option in config.options:
        if option not in known:
            raise ValueError(
                f"config.optimizer.options.{option} is not known to {config.name}; known: {', '.join(known)}"
            )
    options = dict(config.options)
    if config.name == "adamw":
        options.setdefault("mask", _decayed)
    parts = [make(schedule, **options)]
    if not 0 <= config.weight_decay < math.inf:
        raise ValueError(f"config.optimizer.weight_decay = {config.weight_decay}: a number of at least 0 is needed")
    if config.weight_decay:
        parts.insert(0, optax.add_decayed_weights(config.weight_decay, mask=_decayed))
    if config.clip_norm is not None:
        if not config.clip_norm > 0:
            raise ValueError(f"config.optimizer.clip_norm = {config.clip_norm}: a number above 0 is needed, or None")
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]
