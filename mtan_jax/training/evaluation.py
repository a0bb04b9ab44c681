"""Evaluates a network on a split."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar, cast

import jax

from mtan_jax.experiment import Experiment
from mtan_jax.runtime import activity, parallel
from mtan_jax.steps.state import TrainState
from mtan_jax.tasks.accumulator import Accumulator
from mtan_jax.tasks.constant_baseline import best_constants
from mtan_jax.tasks.delta_m import delta_m, directions
from mtan_jax.tasks.metrics import LossMetric
from mtan_jax.types import Batch

Item = TypeVar("Item")


class EvaluationStopped(Exception):  # noqa: N818
    """An evaluation was stopped on request."""


def evaluate(
    experiment: Experiment, state: TrainState, split: str = "val", is_stopped: Callable[[], bool] = lambda: False
) -> dict[str, float]:
    """Computes the metrics of a network on a split, counting every example once.

    Args:
        experiment: the run; its dataset is prepared.
        state: of the network, on the devices of this process.
        split: "val" or "train".
        is_stopped: called after each batch; True ends the evaluation.

    Returns:
        The loss and the metrics of each task by "task/metric", the same on every process; for sets of labelled images
        also "mean/accuracy". With a single-task baseline (`config.eval.single_task`) also "delta_m/metrics" and
        "delta_m/tasks", and "decathlon/score" for sets of labelled images.

    Raises:
        EvaluationStopped: `is_stopped` returned True.
    """
    protocol = experiment.config.eval.protocol
    accumulators = {
        task.name: (Accumulator(task.metric(protocol), protocol), Accumulator(LossMetric.empty(), protocol))
        for task in experiment.tasks
    }
    batches = _noted(parallel.place_ahead(map(without_ids, experiment.data.eval_batches(split))), split)
    for states in _one_behind(experiment.eval_step(state.variables, batch) for batch in batches):
        for name, parts in states.items():
            for accumulator, part in zip(accumulators[name], parts, strict=True):
                accumulator.add(part)
        if is_stopped():
            raise EvaluationStopped
    metrics = {
        f"{name}/{metric}": value
        for name, (metric_states, losses) in accumulators.items()
        for metric, value in {**losses.compute(), **metric_states.compute()}.items()
    }
    single_task = experiment.single_task
    metrics |= experiment.data.summarize(metrics, single_task)
    if single_task:
        chosen = {name: metrics[name] for name in single_task if name in metrics}
        higher_is_better = directions(experiment.metrics)
        for average in ("metrics", "tasks"):
            metrics[f"delta_m/{average}"] = delta_m(chosen, single_task, average, higher_is_better)
    return metrics


def evaluate_constants(experiment: Experiment, split: str = "val") -> dict[str, float]:
    """Metrics of the best constant predictions on a split, by "task/metric". Reads the whole split on this process."""
    batches = experiment.data.whole_split(split)
    return best_constants(experiment.tasks, batches)


def table(metrics: Mapping[str, float], constants: Mapping[str, float]) -> str:
    """Formats metrics next to those of the best constant predictions."""
    lines = [f"{'':<26}{'network':>12}{'best constant':>15}"]
    for name, value in metrics.items():
        constant = f"{constants[name]:>15.4f}" if name in constants else ""
        lines.append(f"{name:<26}{value:>12.4f}{constant}".rstrip())
    return "\n".join(lines)


def without_ids(batch: Batch) -> Batch:
    """The arrays of a batch, without the ids, which devices cannot hold."""
    return cast(Batch, {key: value for key, value in batch.items() if key != "id"})


def _noted(batches: Iterator[Item], split: str) -> Iterator[Item]:
    """Notes the reading and the evaluation of each batch as activities."""
    for number in itertools.count(1):
        with activity.doing(f"reading batch {number} of the split {split}"):
            batch = next(batches, None)
        if batch is None:
            return
        limit = activity.COMPILING if number == 1 else activity.HUNG_AFTER
        activity.note(f"evaluating batch {number} of the split {split}", limit)
        yield batch


def _one_behind(items: Iterable[Item]) -> Iterator[Item]:
    """Fetches each item from the devices while the next one is computed."""
    previous: Item | None = None
    for item in items:
        if previous is not None:
            yield jax.device_get(previous)
        previous = item
    if previous is not None:
        yield jax.device_get(previous)
