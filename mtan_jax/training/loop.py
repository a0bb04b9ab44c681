"""The training loop: step, log, evaluate, save."""

import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Sequence

import jax

from mtan_jax.experiment import Experiment
from mtan_jax.reporting.sinks import Sink, open_sinks
from mtan_jax.runtime import parallel
from mtan_jax.runtime.checkpoint import CheckpointError, Checkpoints
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
    """
    with own(workdir) as check_owned:
        try:
            return _train(experiment, workdir, sinks, check_owned)
        except (CheckpointError, OSError):
            check_owned()  # a lost directory explains the failure better than the file that could not be written
            raise


def _train(
    experiment: Experiment, workdir: pathlib.Path, sinks: Sequence[Sink], check_owned: Callable[[], None]
) -> dict[str, float]:
    config, lengths = experiment.config, experiment.lengths
    total_steps = experiment.total_steps
    log_every, eval_every, save_every = (
        lengths.to_steps(text) for text in (config.log_every, config.eval.every, config.checkpoint.every)
    )
    best_metric, higher_is_better = experiment.best_metric
    claim_data(workdir, experiment.data.to_record(), write=jax.process_index() == 0)
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
    metrics: dict[str, float] = {}
    with open_sinks(workdir, first_step, total_steps, sinks) as writer, checkpoints:
        logger = WindowLogger(experiment, writer)
        batches = parallel.place_ahead(map(evaluation.without_ids, experiment.train_batches(first_step)))
        for step in range(first_step + 1, total_steps + 1):
            state = experiment.train_step(state, next(batches))
            logger.write()  # the previous step's window, while this step runs
            is_last = step == total_steps
            is_evaluated, is_saved = (step % every == 0 or is_last for every in (eval_every, save_every))
            if step % log_every == 0 or is_last:
                state = dataclasses.replace(state, window=logger.take(step, state.window))
            if is_evaluated or is_saved:
                logger.write()
                logger.check(state.window)
            pause = time.perf_counter()
            if is_evaluated:
                metrics = evaluation.evaluate(experiment, state)
                writer.write(step, lengths.steps_to_epochs(step), "val", metrics)
            if is_saved:
                check_owned()  # otherwise saving would recreate a deleted directory
                checkpoints.save(state, metrics if is_evaluated else None)
            logger.exclude(time.perf_counter() - pause)
            writer.advance(step)
            checkpoints.check()
        checkpoints.close()
        metrics = metrics or evaluation.evaluate(experiment, state)  # if the run was already complete
        if jax.process_index() == 0:
            report(experiment, workdir, writer, metrics)
    return metrics
