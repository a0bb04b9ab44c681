"""Logs training: one line per window, the steps since the previous line."""

import itertools
import time
from collections.abc import Sequence

import jax
import numpy as np
import optax

from mtan_jax.experiment import Experiment
from mtan_jax.reporting.sinks import MetricWriter
from mtan_jax.runtime import activity, parallel
from mtan_jax.steps.state import Window
from mtan_jax.weighting import Measurements, has_telemetry, measure


class NonFiniteError(RuntimeError):
    """A loss or an update was not finite. Checkpoints from before it remain."""


class WindowLogger:
    """Writes the sums of each window one step late, so that no step waits for them."""

    def __init__(self, experiment: Experiment, writer: MetricWriter):
        self._experiment, self._writer = experiment, writer
        self._learning_rate = jax.jit(experiment.learning_rate)  # one small program instead of one per operation
        self._measure = jax.jit(measure)
        self._pending: tuple[int, Window, jax.Array, Measurements | None] | None = None
        self._empty = parallel.place_state(Window.empty(len(experiment.tasks)))
        self._last_time = time.perf_counter()

    def take(self, step: int, window: Window, opt_state: optax.OptState) -> Window:
        """Keeps the window that ends at `step`, and the measurements of `telemetry`, for `write`.

        Returns:
            An empty window.
        """
        self.write()
        # Dispatched now: after the next step is dispatched, it would wait for that step.
        measurements = self._measure(opt_state) if has_telemetry(opt_state) else None
        self._pending = (step, window, self._learning_rate(step - 1), measurements)
        return jax.tree.map(jax.numpy.copy, self._empty)

    def exclude(self, seconds: float) -> None:
        """Excludes a pause from the number of steps per second."""
        self._last_time += seconds

    def write(self) -> None:
        """Writes the kept window, if there is one.

        Raises:
            NonFiniteError: see `check`.
        """
        if self._pending is None:
            return
        (step, window, rate, measurements), self._pending = self._pending, None
        self.check(window)
        window, measurements = jax.device_get((window, measurements))
        now, experiment = time.perf_counter(), self._experiment
        metrics = {}
        for i, name in enumerate(experiment.task_names):
            # A task without a label in the whole window has no loss; 0 would be wrong.
            count = window.loss_count[i]
            metrics[f"{name}/loss"] = float(window.loss_total[i] / count) if count else float("nan")
            metrics[f"weights/{name}"] = float(window.weights[i] / window.steps)
        if measurements is not None:
            metrics |= telemetry_metrics(measurements, experiment.task_names)
        metrics["learning_rate"] = float(str(np.float32(rate)))  # 0.001, not 0.0010000000474974513
        metrics["steps_per_second"] = float(window.steps) / (now - self._last_time)
        with activity.doing(f"writing the metrics of step {step}"):
            self._writer.write(step, experiment.lengths.steps_to_epochs(step), "train", metrics)
        self._last_time = now

    def check(self, window: Window) -> None:
        """Raises a NonFiniteError if a loss or an update was not finite in a step of the window."""
        bad_step = int(window.bad_step)
        if not bad_step:
            return
        names = [
            name for name, bad in zip(self._experiment.task_names, np.asarray(window.bad_tasks), strict=True) if bad
        ]
        source = f"the loss of {', '.join(names)}" if names else "an updated parameter"
        raise NonFiniteError(
            f"{source} was not finite at step {bad_step}; the checkpoints before it remain. Try a lower "
            "config.optimizer.learning_rate, config.optimizer.clip_norm=1.0, config.optimizer.warmup='500 steps', or "
            "config.model.dtype=float32. If it is the first step, check the data"
        )


def telemetry_metrics(measurements: Measurements, tasks: Sequence[str]) -> dict[str, float]:
    """The measurements of `telemetry` by the names of the log: per pair of tasks, and for all tasks."""
    metrics = {}
    for name, table in (
        ("cosine", measurements.cosines),
        ("magnitude_similarity", measurements.magnitude_similarity),
    ):
        for (i, first), (j, second) in itertools.combinations(enumerate(tasks), 2):
            metrics[f"telemetry/{name}/{first}-{second}"] = float(table[i, j])
    metrics["telemetry/conflicting_pairs"] = float(measurements.conflicting)
    metrics["telemetry/condition_number"] = float(measurements.condition_number)
    metrics["telemetry/stationarity"] = float(measurements.stationarity)
    return metrics
