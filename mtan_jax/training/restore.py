"""Restores a run's state from a checkpoint."""

import logging
import pathlib

from mtan_jax.experiment import Experiment
from mtan_jax.runtime import checkpoint_bucket
from mtan_jax.runtime.checkpoint import CheckpointError, Checkpoints
from mtan_jax.steps.state import TrainState

log = logging.getLogger(__name__)

INITIAL = "initial"  # names the state before the first step


def restore(experiment: Experiment, workdir: pathlib.Path, checkpoint: str) -> TrainState:
    """Restores a run's state.

    Args:
        experiment: the run; its dataset may be absent.
        workdir: of the run.
        checkpoint: "newest", "best", a step, or "initial": the state before the first step, with the weights of
            `config.model.init_from` if it is set. "initial" needs no working directory.

    Raises:
        ValueError: `checkpoint` is none of these.
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    if checkpoint == INITIAL:
        return experiment.init_state()
    checkpoint_bucket.pull_run(workdir)  # the run may have trained further since it was opened
    best_metric, higher_is_better = experiment.best_metric
    checkpoints = Checkpoints(
        workdir,
        keep=experiment.config.checkpoint.keep,
        best_metric=best_metric,
        higher_is_better=higher_is_better,
        read_only=True,
    )
    with checkpoints:
        state = checkpoints.restore(experiment.abstract_state(), checkpoint)
    if state is None:
        raise CheckpointError(f"no checkpoint in {workdir}; train first, with --mode=train")
    log.info("restored the checkpoint of step %d", int(state.step))
    return state
