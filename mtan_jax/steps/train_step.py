"""The training step: forward pass, task gradients, update, next state."""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from mtan_jax.models.shared_features import abstract_features
from mtan_jax.runtime import collectives
from mtan_jax.steps.batch import labels_of, network_inputs
from mtan_jax.steps.state import TrainState, Window
from mtan_jax.tasks import Task
from mtan_jax.tasks.losses import at_least_float32
from mtan_jax.types import Batch, Params, SumAndCount, Variables
from mtan_jax.weighting import TaskGradients, dependence, task_weights

BatchStats: TypeAlias = PyTree


class Terms(NamedTuple):
    """Sums and counts per task, which are added over the parts of a batch and over devices.

    Attributes:
        loss_sums: sums of `Task.loss`.
        loss_counts: counts of `Task.loss`.
        indicator_sums: sums of `Task.indicator`; NaN for tasks without one.
        indicator_counts: counts of `Task.indicator`.
    """

    loss_sums: Float[Array, "t"]
    loss_counts: Float[Array, "t"]
    indicator_sums: Float[Array, "t"]
    indicator_counts: Float[Array, "t"]

    @property
    def losses(self) -> Float[Array, "t"]:
        """Mean losses; 0 for absent tasks."""
        return self.loss_sums / jnp.maximum(self.loss_counts, 1)

    @property
    def indicators(self) -> Float[Array, "t"]:
        """Mean indicators; NaN for absent tasks."""
        counted = self.indicator_counts > 0
        return jnp.where(counted, self.indicator_sums / jnp.where(counted, self.indicator_counts, 1), jnp.nan)


class Network(NamedTuple):
    """Variables of the network by collection."""

    params: Params
    batch_stats: BatchStats
    frozen: PyTree


# (network, batch, feature zeros, key) -> (terms, batch_stats)
Forward: TypeAlias = Callable[[Network, Batch, Variables, jax.Array], tuple[Terms, BatchStats]]


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
    """Makes the training step.

    The loss of a task is psum(sum) / psum(count) over the labeled pixels of the global batch.

    With `accumulate` > 1, the rows of a device are processed in that many sequential parts, and the forward pass of
    each part is recomputed in the backward pass. This needs the memory of one part and costs one more forward pass. The
    losses are the same, apart from BatchNorm, which computes its statistics per part. Any weighting method can be used.

    Args:
        model: `apply(variables, image, train=...) -> {task: prediction}`.
        tasks: in the order of the task axis of all arrays.
        tx: a chain of optax transformations whose updates are `TaskGradients`.
        key: key of the network's random numbers (dropout), which is folded with the step.
        axis_name: axis of the devices; None on one device outside pmap.
        accumulate: number of sequential parts.
        features: whether to provide `TaskGradients.feature_pullback`, for networks whose tasks share features.
        groups: if each image belongs to one task, the number of tasks per batch; None if images may have targets for
            all tasks.

    Returns:
        `(state, batch) -> state`. Metrics to log accumulate in `state.window`. If the batch contains a second batch
        under "second", it is passed to `TaskGradients.second_losses_at`; it does not change BatchNorm's statistics and
        is not logged.
    """
    forward = _make_forward(model, tasks)
    if accumulate > 1:
        forward = _accumulate(forward, accumulate)
    has_indicators = any(task.indicator is not None for task in tasks)
    update = optax.with_extra_args_support(tx).update

    def depends_on(state: TrainState, batch: Batch) -> Bool[np.ndarray, "p t"]:
        def loss_sums(params: Params) -> list[Array]:
            network = Network(params, state.batch_stats, state.frozen)
            return [sums for sums, *_ in _make_forward_by_task(model, tasks)(network, batch, {}, key)[0]]

        return dependence.of(loss_sums, state.params)

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        def task_losses(
            params: Params, zeros: Variables, batch: Batch
        ) -> tuple[Float[Array, "t"], tuple[Terms, BatchStats]]:
            network = Network(params, state.batch_stats, state.frozen)
            terms, batch_stats = forward(network, batch, zeros, jax.random.fold_in(key, state.step))
            terms = collectives.total(terms, axis_name)
            return terms.losses, (terms, batch_stats)

        def losses_of(batch: Batch) -> Callable[[Params], Float[Array, "t"]]:
            return lambda params: task_losses(params, {}, batch)[0]

        second = batch.get("second")
        first: Batch = {name: value for name, value in batch.items() if name != "second"}  # type: ignore[assignment]
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
            second_losses_at=None if second is None else losses_of(second),
            indicators=terms.indicators if has_indicators else None,
            feature_pullback=(lambda cotangent: pullback(cotangent)[1]) if features else None,
            task_indices=None if groups is None else network_inputs(first)["tasks"][:groups],
            dependence=functools.cache(lambda: depends_on(state, first)),
        )
        updates, opt_state = update(task_gradients, state.opt_state, state.params, present=task_gradients.present)
        batch_stats = collectives.mean(batch_stats, axis_name)  # already equal if BatchNorm is synchronized
        step, params = state.step + 1, optax.apply_updates(state.params, updates)
        return TrainState(
            step=step,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            window=_add_step(state.window, step, terms, task_weights(opt_state), params),
            frozen=state.frozen,
        )

    return train_step


def _feature_zeros(model: nn.Module, state: TrainState, batch: Batch) -> Variables:
    """Zeros that the network adds to the shared features of this device's rows, as a collection of variables.

    The gradient with respect to them is the gradient with respect to the features.
    """
    shapes = abstract_features(model, state.variables, cast(Array, batch["image"]))
    if not shapes:
        raise ValueError(f"make_train_step(features=True): the tasks of {type(model).__name__} share no features")
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _make_forward(model: nn.Module, tasks: tuple[Task, ...]) -> Forward:
    """Makes the forward pass of this device's rows."""
    forward_by_task = _make_forward_by_task(model, tasks)

    def forward(network: Network, batch: Batch, zeros: Variables, key: jax.Array) -> tuple[Terms, BatchStats]:
        rows, batch_stats = forward_by_task(network, batch, zeros, key)
        return Terms(*(jnp.stack(values) for values in zip(*rows, strict=True))), batch_stats

    return forward


def _make_forward_by_task(
    model: nn.Module, tasks: tuple[Task, ...]
) -> Callable[[Network, Batch, Variables, jax.Array], tuple[list[tuple[Array, ...]], BatchStats]]:
    """Makes the forward pass of this device's rows, whose result has the fields of `Terms` per task."""

    def forward(
        network: Network, batch: Batch, zeros: Variables, key: jax.Array
    ) -> tuple[list[tuple[Array, ...]], BatchStats]:
        variables = {**network._asdict(), **zeros}
        predictions, updates = model.apply(
            *(variables, batch["image"]),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
            **network_inputs(batch),
        )
        rows = []
        for task in tasks:
            prediction, truth = predictions[task.name], labels_of(task, batch)
            indicator: SumAndCount | tuple[float, float] = (jnp.nan, 1.0)
            if task.indicator is not None:  # XLA removes this as dead code if no method reads the indicators
                indicator = task.indicator(lax.stop_gradient(prediction), *truth)
            rows.append((*task.loss(prediction, *truth), *indicator))
        return rows, updates["batch_stats"]

    return forward


def _accumulate(forward: Forward, accumulate: int) -> Forward:
    """Runs the forward pass in sequential parts, each recomputed in the backward pass."""

    def accumulated(network: Network, batch: Batch, zeros: Variables, key: jax.Array) -> tuple[Terms, BatchStats]:
        parts = jax.tree.map(lambda x: x.reshape(accumulate, x.shape[0] // accumulate, *x.shape[1:]), (batch, zeros))
        keys = jax.random.split(key, accumulate)

        @jax.checkpoint
        def add_part(
            carry: tuple[Terms, BatchStats], part: tuple[tuple[Batch, Variables], jax.Array]
        ) -> tuple[tuple[Terms, BatchStats], None]:
            totals, batch_stats = carry
            (part_batch, part_zeros), part_key = part
            terms, batch_stats = forward(network._replace(batch_stats=batch_stats), part_batch, part_zeros, part_key)
            return (jax.tree.map(jnp.add, totals, terms), batch_stats), None

        (first_batch, first_zeros), first_key = jax.tree.map(lambda x: x[0], (parts, keys))
        shapes = jax.eval_shape(forward, network, first_batch, first_zeros, first_key)[0]
        empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return lax.scan(add_part, (empty, network.batch_stats), (parts, keys))[0]

    return accumulated


def _add_step(window: Window, step: Array, terms: Terms, weights: Float[Array, "t"], params: Params) -> Window:
    bad_tasks = ~jnp.isfinite(terms.loss_sums)
    # Any non-finite parameter makes its array's sum non-finite, and XLA fuses the sums with the update.
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
