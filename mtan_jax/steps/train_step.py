"""The step of training: from a batch to losses, gradients, updates and the next state."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from mtan_jax.models.shared_features import abstract_features
from mtan_jax.runtime import collectives
from mtan_jax.steps.batch import SECOND, TASK, ZEROS, Batch, tasks_of_rows
from mtan_jax.steps.state import TrainState, Window
from mtan_jax.tasks import Task
from mtan_jax.tasks.losses import at_least_float32
from mtan_jax.weighting import TaskGradients, task_weights


class Terms(NamedTuple):
    """What adds up over parts of a batch and over devices.

    Attributes:
        loss_sums: see `Task.loss`.
        loss_counts: see there.
        right_sums: see `Task.indicator`; NaN for a task that has none.
        right_counts: see there.
    """

    loss_sums: Float[Array, "t"]
    loss_counts: Float[Array, "t"]
    right_sums: Float[Array, "t"]
    right_counts: Float[Array, "t"]

    @property
    def losses(self) -> Float[Array, "t"]:
        return self.loss_sums / jnp.maximum(self.loss_counts, 1)

    @property
    def indicators(self) -> Float[Array, "t"]:
        """NaN where nothing was counted."""
        counted = self.right_counts > 0
        return jnp.where(counted, self.right_sums / jnp.where(counted, self.right_counts, 1), jnp.nan)


class Network(NamedTuple):
    """The variables of a network, by collection."""

    params: Any
    batch_stats: Any
    frozen: Any


# (network, batch, key) -> (terms, batch_stats)
Forward = Callable[[Network, Batch, jax.Array], tuple[Terms, Any]]


def make_train_step(
    model: nn.Module,
    tasks: tuple[Task, ...],
    tx: optax.GradientTransformation,
    *,
    key: jax.Array,
    axis_name: str | None = None,
    accumulate: int = 1,
    features: bool = False,
    groups: int | None = None,
) -> Callable[[TrainState, Batch], TrainState]:
    """Makes the step of training.

    A task's loss is psum(sum) / psum(count) over the pixels of the whole batch, all devices and all parts of it. With
    `accumulate` above 1 the device's rows pass the network in that many parts, one after the other, and again in the
    backward pass: memory for one part, one more forward pass, the same losses and any weighting method; BatchNorm sees
    each part for itself.

    Args:
        model: `apply(variables, image, train=...) -> {task: prediction}`.
        tasks: in the order of all arrays over tasks.
        tx: a chain whose updates are `TaskGradients`.
        key: of the random numbers of networks that have any (dropout); each step makes its own from it.
        axis_name: of the devices; None on one device outside pmap.
        accumulate: number of parts.
        features: whether `TaskGradients.feature_pullback` is given, for networks whose tasks share features.
        groups: number of tasks in a batch, where each image belongs to one task; None where images have all targets.

    Returns:
        `(state, batch) -> state`; what is to be logged is summed in `state.window`. A batch may hold another one under
        the key "second", for `TaskGradients.second_losses_at`; it moves no statistics of BatchNorm and is not logged.
    """
    forward = _forward(model, tasks)
    if accumulate > 1:
        forward = _in_parts(forward, accumulate)
    has_indicators = any(task.indicator is not None for task in tasks)

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        def task_losses(params: Any, zeros: Any, batch: Batch) -> tuple[Float[Array, "t"], tuple[Terms, Any]]:
            key_of_step = jax.random.fold_in(key, state.step)
            network = Network(params, state.batch_stats, state.frozen)
            terms, batch_stats = forward(network, batch | {ZEROS: zeros}, key_of_step)
            terms = collectives.total(terms, axis_name)
            return terms.losses, (terms, batch_stats)

        def losses_of(batch: Batch) -> Callable[[Any], Float[Array, "t"]]:
            return lambda params: task_losses(params, {}, batch)[0]

        first = {name: value for name, value in batch.items() if name != SECOND}
        zeros = _feature_zeros(model, state, first) if features else {}
        losses, pullback, (terms, batch_stats) = jax.vjp(
            functools.partial(task_losses, batch=first), state.params, zeros, has_aux=True
        )
        task_gradients = TaskGradients(
            tasks=tuple(task.name for task in tasks),
            losses=losses,
            present=terms.loss_counts > 0,
            weights=jnp.ones_like(losses),
            pullback=lambda cotangent: pullback(cotangent)[0],
            losses_at=losses_of(first),
            axis_name=axis_name,
            second_losses_at=losses_of(batch[SECOND]) if SECOND in batch else None,
            indicators=terms.indicators if has_indicators else None,
            feature_pullback=(lambda cotangent: pullback(cotangent)[1]) if features else None,
            task_indices=None if groups is None else first[TASK][:groups],
        )
        update = optax.with_extra_args_support(tx).update
        updates, opt_state = update(task_gradients, state.opt_state, state.params, present=task_gradients.present)
        batch_stats = collectives.mean(batch_stats, axis_name)  # the same already where BatchNorm is synchronised
        step, params = state.step + 1, optax.apply_updates(state.params, updates)
        return TrainState(
            step=step,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            window=_extend(state.window, step, terms, task_weights(opt_state), params),
            frozen=state.frozen,
        )

    return train_step


def _feature_zeros(model: nn.Module, state: TrainState, batch: Batch) -> dict[str, Any]:
    """What is added to the features that tasks share, of this device's rows; zeros, as a part of the variables."""
    shapes = abstract_features(model, state.variables, batch["image"])
    if not shapes:
        raise ValueError(f"make_train_step(features=True): the tasks of {type(model).__name__} share no features")
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _forward(model: nn.Module, tasks: tuple[Task, ...]) -> Forward:
    """One pass of this device's rows through the network."""

    def forward(network: Network, batch: Batch, key: jax.Array) -> tuple[Terms, Any]:
        variables = {**network._asdict(), **batch[ZEROS]}
        predictions, updates = model.apply(
            *(variables, batch["image"]),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
            **tasks_of_rows(batch),
        )
        columns = []
        for task in tasks:
            prediction, truth = predictions[task.name], (batch["targets"][task.target], batch["labelled"][task.target])
            right: tuple[Any, Any] = (jnp.nan, 1.0)
            if task.indicator is not None:  # dead code, which XLA removes, where no method asks for the indicators
                right = task.indicator(lax.stop_gradient(prediction), *truth)
            columns.append((*task.loss(prediction, *truth), *right))
        return Terms(*(jnp.stack(values) for values in zip(*columns, strict=True))), updates["batch_stats"]

    return forward


def _in_parts(forward: Forward, accumulate: int) -> Forward:
    """The same in parts, one after the other, and again in the backward pass."""

    def forward_in_parts(network: Network, batch: Batch, key: jax.Array) -> tuple[Terms, Any]:
        parts = jax.tree.map(lambda x: x.reshape(accumulate, x.shape[0] // accumulate, *x.shape[1:]), batch)
        keys = jax.random.split(key, accumulate)

        @jax.checkpoint
        def part(carry: tuple[Terms, Any], part: tuple[Batch, jax.Array]) -> tuple[tuple[Terms, Any], None]:
            totals, batch_stats = carry
            terms, batch_stats = forward(network._replace(batch_stats=batch_stats), *part)
            return (jax.tree.map(jnp.add, totals, terms), batch_stats), None

        first = jax.tree.map(lambda x: x[0], (parts, keys))
        shapes = jax.eval_shape(forward, network, *first)[0]
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return lax.scan(part, (zeros, network.batch_stats), (parts, keys))[0]

    return forward_in_parts


def _extend(window: Window, step: Array, terms: Terms, weights: Float[Array, "t"], params: optax.Params) -> Window:
    bad_tasks = ~jnp.isfinite(terms.loss_sums)
    # Sums of the new parameters, which are at hand as they are written, tell of an update that was not finite.
    sums = jnp.array([at_least_float32(leaf).sum() for leaf in jax.tree.leaves(params)])
    is_bad = bad_tasks.any() | ~jnp.isfinite(sums).all()
    is_first = is_bad & (window.bad_step == 0)
    return Window(
        steps=window.steps + 1,
        loss_total=window.loss_total + terms.loss_sums.astype(jnp.float32),
        loss_count=window.loss_count + terms.loss_counts.astype(jnp.float32),
        weights=window.weights + weights,
        bad_step=jnp.where(is_first, step, window.bad_step),
        bad_tasks=jnp.where(is_first, bad_tasks, window.bad_tasks),
    )
