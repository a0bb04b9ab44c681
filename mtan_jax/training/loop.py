"""The loop of training: evaluate, save, take the next batch, step, log."""

import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable

import jax
import numpy as np

from mtan_jax.experiment import Experiment
from mtan_jax.reporting import figures
from mtan_jax.reporting.writers import METRICS_FILE, MetricWriter, read_metrics
from mtan_jax.runtime import parallel
from mtan_jax.runtime.checkpoint import CheckpointError, Checkpoints
from mtan_jax.steps.state import Window
from mtan_jax.training import evaluate
from mtan_jax.training.workdir import claim_data, own

log = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """A loss or an update was not finite; nothing of it was saved."""


def train(experiment: Experiment, workdir: pathlib.Path) -> dict[str, float]:
    """Trains to the end of `config.duration`, from the newest checkpoint of the working directory if there is one.

    A run that was stopped, at whatever moment, and then run again gives the parameters and the metrics of a run that
    was not: checkpoints hold all state, batches follow from seed and step, and what was logged after the
    checkpoint is dropped and logged again.

    Args:
        experiment: the run; its data set is prepared.
        workdir: for `data.json`, `checkpoints/`, `metrics.jsonl`, TensorBoard event files and `figures/`.

    Returns:
        Metrics of the last evaluation of the split "val".

    Raises:
        LockedError: another run trains in the working directory.
        NonFiniteError: a loss or an update was not finite; the last good checkpoint stands.
        CheckpointError: a checkpoint could not be written or read.
        WorkdirError: the run in the working directory was trained on another dataset, or the directory was deleted or
            moved during training.
    """
    with own(workdir) as check_owned:
        try:
            return _train(experiment, workdir, check_owned)
        except (CheckpointError, OSError):
            check_owned()  # a directory that is gone says more than what could not be written in it
            raise


def _train(experiment: Experiment, workdir: pathlib.Path, check_owned: Callable[[], None]) -> dict[str, float]:
    config, total_steps = experiment.config, experiment.total_steps
    log_every, eval_every, save_every = (
        experiment.to_steps(text) for text in (config.log_every, config.eval.every, config.checkpoint.every)
    )
    best_metric, higher_is_better = experiment.best_metric
    claim_data(workdir, experiment.data_record(), write=jax.process_index() == 0)
    checkpoints = Checkpoints(
        workdir, keep=config.checkpoint.keep, best_metric=best_metric, higher_is_better=higher_is_better
    )
    state = checkpoints.restore(experiment.abstract_state())
    if state is None:
        log.info("training %s for %d steps", config.data.name, total_steps)
        state = experiment.init_state()
    else:
        log.info("resuming from step %d of %d", int(state.step), total_steps)
    first_step = int(state.step)
    writer = MetricWriter(workdir, first_step=first_step, total_steps=total_steps, enabled=jax.process_index() == 0)
    logger = WindowLogger(experiment, writer)
    metrics: dict[str, float] = {}
    batches = parallel.place_ahead(map(evaluate.without_ids, experiment.train_batches(first_step)))
    with writer, checkpoints:
        for step in range(first_step + 1, total_steps + 1):
            state = experiment.train_step(state, next(batches))
            logger.write()  # what the step before left, while this one runs
            is_last = step == total_steps
            is_evaluated, is_saved = (step % every == 0 or is_last for every in (eval_every, save_every))
            if step % log_every == 0 or is_last:
                state = dataclasses.replace(state, window=logger.take(step, state.window))
            if is_evaluated or is_saved:
                logger.write()
                logger.check(state.window)
            pause = time.perf_counter()
            if is_evaluated:
                metrics = evaluate.evaluate(experiment, state)
                writer.write(step, experiment.epoch_at(step), "val", metrics)
            if is_saved:
                check_owned()  # or a checkpoint would make the directory anew
                checkpoints.save(state, metrics if is_evaluated else None)
            logger.leave_out(time.perf_counter() - pause)
            writer.advance(step)
            checkpoints.check()
        checkpoints.close()
        metrics = metrics or evaluate.evaluate(experiment, state)  # where the run was complete already
        if jax.process_index() == 0:
            report(experiment, workdir, writer, metrics)
    return metrics


def report(experiment: Experiment, workdir: pathlib.Path, writer: MetricWriter, metrics: dict[str, float]) -> None:
    """Writes and prints what the run came to: its last metrics beside the best constants', and curves."""
    step = experiment.total_steps
    epoch = experiment.epoch_at(step)
    lines = read_metrics(workdir / METRICS_FILE)
    results = {line["split"]: line for line in lines}
    constants = results.get("val_constant")
    if constants is None:
        constants = evaluate.evaluate_constants(experiment)
        writer.write(step, epoch, "val_constant", constants)
    count = experiment.config.eval.average_last
    mean = results.get("val_mean")
    if count is not None and mean is None:
        evaluated = [line for line in lines if line["split"] == "val" and metrics.keys() <= line.keys()]
        last = evaluated[-count:] or [metrics]
        mean = {name: float(np.mean([line[name] for line in last])) for name in metrics}
        writer.write(step, epoch, "val_mean", mean)
    figures.save_png(figures.curves(workdir / METRICS_FILE), workdir / "figures" / "curves.png")
    log.info("\nsplit val after %d steps\n%s", step, evaluate.table(metrics, constants))
    if count is not None and mean is not None:
        mean = {name: mean[name] for name in metrics if name in mean}
        log.info("\nmean over the last %d evaluations\n%s", count, evaluate.table(mean, constants))
    log.info("\nmetrics, checkpoints and figures are in %s", workdir)


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
        self._writer.write(step, experiment.epoch_at(step), "train", metrics, timing)
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
