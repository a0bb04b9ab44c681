"""Trains a run, or continues one."""

import contextlib
import gc
import os

import jax
import ml_collections

from mtan_jax.commands.request import Request
from mtan_jax.commands.run import Run, use_compilation_cache
from mtan_jax.experiment import Experiment, checks
from mtan_jax.runtime import paths
from mtan_jax.training import loop, workdir


def fit(config: ml_collections.ConfigDict, folder: str | os.PathLike[str]) -> Run:
    """Trains to the end of `config.duration`; continues from the newest checkpoint if there is one.

    Prepares the dataset where it is not prepared. A run that is complete is not trained again.

    Args:
        config: of the run, such as `mtan_jax.load_config("streets:smoke")`.
        folder: the working directory, for checkpoints, metrics and figures; made if it is missing. One training run at
            a time owns it.

    Returns:
        The run: `run.metrics` are its metrics.

    Raises:
        ValueError: the configuration has a mistake; nothing was written.
        WorkdirError: the working directory belongs to a run with another configuration or dataset.
        LockedError: another run trains in the working directory.
        RawDataError: the dataset is not prepared, and its raw data are missing or damaged.
        NonFiniteError: a loss or an update was not finite; the last good checkpoint remains.
        CheckpointError: a checkpoint could not be written or read.
    """
    folder = paths.local(os.fspath(folder), "--workdir")
    with contextlib.ExitStack() as owned:
        # Before devices are started: a TPU that is in use has another message. A missing folder has no owner, and is
        # not made before the configuration is checked.
        if folder.is_dir():
            owned.enter_context(workdir.own(folder))
        experiment = Experiment.from_config(config)
        checks.check_eval_batch_size(config)
        checks.check_train_batch_size(config, experiment.data)
        paths.check_folder(folder, "--workdir", write=False)
        owned.enter_context(workdir.own(folder))
        workdir.claim(folder, config, write=jax.process_index() == 0)
        use_compilation_cache(config)  # only tracing comes before it
        if not workdir.holds_results(folder):
            experiment.load_weights()  # a mistake in the file shows before the data are prepared
        experiment.data.prepare()
        loop.train(experiment, folder)
    return Run(experiment, folder)


def run(request: Request) -> None:
    """`--mode=train`."""
    collect_garbage_less_often()
    fit(request.config, request.folder)


def collect_garbage_less_often() -> None:
    """Speeds up tracing, which makes millions of objects, hardly any of them garbage (docs/performance.md)."""
    gc.set_threshold(100_000)
