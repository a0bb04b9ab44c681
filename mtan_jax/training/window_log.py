"""Log lines of training: sums over the steps since the line before."""

import time

import jax
import numpy as np

from mtan_jax.experiment import Experiment
from mtan_jax.reporting.writers import MetricWriter
from mtan_jax.runtime import parallel
from mtan_jax.steps.state import Window


class NonFiniteError(RuntimeError):
    """A loss or an update was not finite; nothing of it was saved."""


class WindowLogger:
    """Writes what the steps since the last log line summed, one step late so that no step waits for it."""

    def __init__(self, experiment: Experiment, writer: MetricWriter):
        self._experiment, self._writer = experiment, writer
        self._learning_rate = jax.jit(experiment.learning_rate)  # one small program, not one an operation
        self._pending: tuple[int, Window, jax.Array] | None = None
        self._empty = parallel.place_state(Window.empty(len(experiment.tasks)))
        self._last_time = time.perf_counter()

    def take(self, step: int, window: Window) -> Window:
        """Keeps a window to be written, and returns an empty one."""
        self.write()
        # Asked for now: once the next step is under way, it would have to wait for that one.
        self._pending = (step, window, self._learning_rate(step - 1))
        return jax.tree.map(jax.numpy.copy, self._empty)

    def leave_out(self, seconds: float) -> None:
        """Leaves a pause out of the rate of steps."""
        self._last_time += seconds

    def write(self) -> None:
        """Writes the window that is kept, if there is one."""
        if self._pending is None:
            return
        (step, window, rate), self._pending = self._pending, None
        self.check(window)
        window = jax.device_get(window)
        now, experiment = time.perf_counter(), self._experiment
        metrics = {}
        for i, name in enumerate(experiment.task_names):
            # No label for a task in the whole window: no loss, which is not a loss of 0.
            count = window.loss_count[i]
            metrics[f"{name}/loss"] = float(window.loss_total[i] / count) if count else float("nan")
            metrics[f"weights/{name}"] = float(window.weights[i] / window.steps)
        metrics["learning_rate"] = float(str(np.float32(rate)))  # 0.001, not 0.0010000000474974513
        timing = {"steps_per_second": float(window.steps) / (now - self._last_time)}
        self._writer.write(step, experiment.lengths.steps_to_epochs(step), "train", metrics, timing)
        self._last_time = now

    def check(self, window: Window) -> None:
        """Raises a NonFiniteError where a step of the window had a loss or an update that was not finite."""
        bad_step = int(window.bad_step)
        if not bad_step:
            return
        names = [
            name for name, bad in zip(self._experiment.task_names, np.asarray(window.bad_tasks), strict=True) if bad
        ]
        what = f"the loss of {', '.join(names)}" if names else "an updated parameter"
        raise NonFiniteError(
            f"{what} was not finite at step {bad_step}; the checkpoints before it stand. Try a lower "
            "config.optimizer.learning_rate, config.optimizer.clip_norm=1.0, config.optimizer.warmup='500 steps', or "
            "config.model.dtype=float32; if it is the first step, look at the data"
        )
