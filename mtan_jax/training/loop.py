"""The training loop: step, log, evaluate, save."""

import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import jax

from mtan_jax.experiment import Experiment
from mtan_jax.reporting.metrics_file import METRICS_FILE, find_metrics
from mtan_jax.reporting.sinks import MetricWriter, Sink, open_sinks
from mtan_jax.runtime import activity, interrupts, parallel
from mtan_jax.runtime.bucket import BucketError
from mtan_jax.runtime.checkpoint import CheckpointError, Checkpoints
from mtan_jax.runtime.checkpoint_bucket import pushing_run
from mtan_jax.runtime.profiler import Profiler, parse_steps
from mtan_jax.steps.state import TrainState
from mtan_jax.training import evaluation
from mtan_jax.training.report import report
from mtan_jax.training.window_log import WindowLogger
from mtan_jax.training.workdir import claim_data, own

log = logging.getLogger(__name__)


def train(experiment: Experiment, workdir: pathlib.Path, sinks: Sequence[Sink] = ()) -> dict[str, float]:
    """Trains to the end of `config.duration`, from the newest checkpoint of the working directory if there is one.

    An interrupted run that is resumed has the same parameters and metrics as an uninterrupted one: checkpoints hold the
    whole state, batches are a function of seed and step, and metrics logged after the checkpoint are dropped and
    logged again.

    Args:
        experiment: the run; its dataset is prepared.
        workdir: for `data.json`, `checkpoints/`, `metrics.jsonl`, TensorBoard event files and `figures/`.
        sinks: further destinations of the metrics; see `mtan_jax.reporting.sinks`.

    Returns:
        Metrics of the last evaluation on the split "val".

    Raises:
        LockedError: another run trains in the working directory.
        NonFiniteError: a loss or an update was not finite; the last good checkpoint remains.
        CheckpointError: a checkpoint could not be written or read.
        WorkdirError: the run in the working directory was trained on another dataset, or the directory was deleted or
            moved during training.
        Stopped: Ctrl-C or SIGTERM was received, and the state of the last step is saved. `python -m mtan_jax.main`
            handles these signals; see `mtan_jax.runtime.interrupts`.
    """
    with own(workdir) as check_owned, pushing_run(workdir, check_owned):
        try:
            return _train(experiment, workdir, sinks, check_owned)
        except (CheckpointError, BucketError, OSError):
            check_owned()  # a lost directory explains the failure better than the file that could not be written
            raise


def _train(
    experiment: Experiment, workdir: pathlib.Path, sinks: Sequence[Sink], check_owned: Callable[[], None]
) -> dict[str, float]:
    config, total_steps = experiment.config, experiment.total_steps
    best_metric, higher_is_better = experiment.best_metric
    claim_data(workdir, experiment.data.to_record(), write=jax.process_index() == 0)
    checkpoints = Checkpoints(
        workdir,
        keep=config.checkpoint.keep,
        every=experiment.lengths.to_steps(config.checkpoint.every),
        best_metric=best_metric,
        higher_is_better=higher_is_better,
        logged=lambda step: find_metrics(workdir / METRICS_FILE, step, "val"),
    )
    state = checkpoints.restore(experiment.abstract_state())
    if state is None:
        log.info("training %s for %d steps", config.data.name, total_steps)
        state = experiment.init_state()
    else:
        log.info("resuming from step %d of %d", int(state.step), total_steps)
    first_step = int(state.step)
    with open_sinks(workdir, first_step, total_steps, sinks) as writer, checkpoints:
        training = _Training(experiment, workdir, writer, checkpoints, check_owned, first_step)
        steps = parse_steps(config.profile)
        with Profiler(steps, workdir) as profiler, interrupts.deferred():
            state = training.run(state, profiler)
        checkpoints.close()
        metrics = training.metrics or evaluation.evaluate(experiment, state)  # if the run was already complete
        if jax.process_index() == 0:
            with activity.doing("writing the report"):
                report(experiment, workdir, writer, metrics)
    return metrics


class _Training:
    """The steps of a run, and what happens between them.

    Attributes:
        metrics: of the last evaluation; empty before the first one.
    """

    def __init__(
        self,
        experiment: Experiment,
        workdir: pathlib.Path,
        writer: MetricWriter,
        checkpoints: Checkpoints,
        check_owned: Callable[[], None],
        first_step: int,
    ):
        config, lengths = experiment.config, experiment.lengths
        self.metrics: dict[str, float] = {}
        self._experiment, self._workdir, self._writer = experiment, workdir, writer
        self._checkpoints, self._check_owned = checkpoints, check_owned
        self._logger = WindowLogger(experiment, writer)
        self._first_step, self._total_steps = first_step, experiment.total_steps
        self._log_every, self._eval_every, self._save_every = (
            lengths.to_steps(text) for text in (config.log_every, config.eval.every, config.checkpoint.every)
        )
        self._saved_step = first_step

    def run(self, state: TrainState, profiler: Profiler) -> TrainState:
        """Trains from the first step to the last, and returns the state after it.

        Raises:
            Stopped: a signal was received; the state is saved.
        """
        experiment, logger = self._experiment, self._logger
        if parallel.any_process(jax.process_index() == 0 and self._lacks_evaluation()):
            self._evaluate_and_save(state, self._first_step)
        batches = parallel.place_ahead(map(evaluation.without_ids, experiment.train_batches(self._first_step)))
        for step in range(self._first_step + 1, self._total_steps + 1):
            profiler.before(step)
            with activity.doing(f"reading the batch of step {step}"):
                batch = next(batches)
            if step == self._first_step + 1:
                activity.note(f"compiling and running step {step}", activity.COMPILING)
            else:
                activity.note(f"running step {step}")
            state = experiment.train_step(state, batch)
            profiler.after(step, state)
            logger.write()  # the previous step's window, while this step runs
            if self._is_due(step, self._log_every):
                state = dataclasses.replace(state, window=logger.take(step, state.window, state.opt_state))
            if self._is_due(step, self._eval_every) or self._is_due(step, self._save_every):
                logger.write()
                logger.check(state.window)
            pause = time.perf_counter()
            self._evaluate_and_save(state, step)
            logger.exclude(time.perf_counter() - pause)
            self._writer.advance(step)
            self._checkpoints.check()
            if interrupts.should_stop(step):
                self._stop(state, step)
        return state

    def _is_due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self._total_steps

    def _lacks_evaluation(self) -> bool:
        """Whether the evaluation due at the restored step is missing, because a signal interrupted it."""
        if self._first_step == 0 or not self._is_due(self._first_step, self._eval_every):
            return False
        return find_metrics(self._workdir / METRICS_FILE, self._first_step, "val") is None

    def _evaluate_and_save(self, state: TrainState, step: int) -> None:
        """Does what is due after a step."""
        metrics = None
        if self._is_due(step, self._eval_every):
            try:
                metrics = evaluation.evaluate(self._experiment, state, is_stopped=interrupts.is_requested)
            except evaluation.EvaluationStopped:
                self._stop(state, step)
            with activity.doing(f"writing the metrics of step {step}"):
                self._writer.write(step, self._experiment.lengths.steps_to_epochs(step), "val", metrics)
            self.metrics = metrics
        if self._is_due(step, self._save_every):
            self._save(state, step, metrics)

    def _save(self, state: TrainState, step: int, metrics: dict[str, float] | None) -> None:
        with activity.doing(f"saving the checkpoint of step {step}"):
            self._check_owned()  # otherwise saving would recreate a deleted directory
            self._checkpoints.save(state, metrics)
        self._saved_step = step

    def _stop(self, state: TrainState, step: int) -> NoReturn:
        self._logger.write()
        self._logger.check(state.window)
        if step != self._saved_step:
            self._save(state, step, None)
        self._checkpoints.close()
        raise interrupts.Stopped(
            f"stopped by {interrupts.received().name} at step {step} of {self._total_steps}, which is saved; "
            "the same command continues from there",
            together=True,
        )
