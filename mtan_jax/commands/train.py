"""Trains a run, or resumes one."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator, Sequence

import jax
import ml_collections

from mtan_jax.commands.request import Request
from mtan_jax.commands.run import Run, use_compilation_cache
from mtan_jax.experiment import Experiment, checks
from mtan_jax.reporting.sinks import Sink
from mtan_jax.runtime import checkpoint_bucket, mirror, parallel, paths, shared_folder
from mtan_jax.training import loop
from mtan_jax.training import workdir as workdirs


def fit(config: ml_collections.ConfigDict, workdir: str | os.PathLike[str], *, sinks: Sequence[Sink] = ()) -> Run:
    """Trains to the end of `config.duration`, from the newest checkpoint if there is one.

    Prepares the dataset if it is not prepared. A complete run is not trained again.

    Args:
        config: of the run, such as `mtan_jax.load_config("streets:smoke")`.
        workdir: the folder for checkpoints, metrics and figures, created if it is missing: a local path or
            "gs://BUCKET/FOLDER". Only one training run at a time can use it.
        sinks: further destinations of the metrics: objects with a method `write(step, split, metrics)`, such as an
            adapter of an experiment tracker. See `mtan_jax.reporting.sinks`.

    Returns:
        The run. `run.metrics` holds its metrics.

    Raises:
        ValueError: the configuration is invalid; no checkpoint or metrics were written.
        SharedFolderError: the processes of the run do not share the working directory.
        WorkdirError: the working directory belongs to a run with another configuration or dataset.
        LockedError: another run trains in the working directory.
        RawDataError: the dataset is not prepared, and its raw data are missing or damaged.
        NonFiniteError: a loss or an update was not finite; the last good checkpoint remains.
        CheckpointError: a checkpoint could not be written or read.
        BucketError: a bucket could not be written or read.
        OSError: a file could not be written. If the disk is full, the message names the file or the working directory.
    """
    folder = mirror.local(os.fspath(workdir), "--workdir")
    is_local = mirror.remote(folder) is None
    with _full_disk_explained(folder), contextlib.ExitStack() as owned:
        # Owned before JAX initializes the devices, so that a second run on a TPU reports that the working directory is
        # in use, not that the TPU is. A folder that does not exist cannot be in use, and it is created only after the
        # configuration is checked.
        if is_local and folder.is_dir():
            owned.enter_context(workdirs.own(folder))
        experiment = Experiment.from_config(config)
        checks.check_eval_batch_size(config)
        checks.check_train_batch_size(config, experiment.data)
        paths.check_folder(folder, "--workdir", write=False)
        owned.enter_context(workdirs.own(folder))
        if is_local:
            shared_folder.check_shared(folder, "--workdir")
        else:
            parallel.wait_for_all("the working directory is owned")  # an earlier run may upload until then
            checkpoint_bucket.pull_run(folder)
            parallel.wait_for_all("the working directory is read")  # before process 0 changes it
        workdirs.claim(folder, config, write=jax.process_index() == 0)
        use_compilation_cache(config, folder)  # nothing is compiled before
        if not workdirs.holds_results(folder):
            experiment.load_weights()  # reports a bad file before the dataset is prepared
        experiment.data.prepare()
        loop.train(experiment, folder, sinks)
    return Run(experiment, folder)


@contextlib.contextmanager
def _full_disk_explained(folder: pathlib.Path) -> Iterator[None]:
    """Adds advice to the error for a full disk, and the folder if the error names no file, as that of `write`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"{error.filename or f'a file in {folder}'} cannot be written ({error.strerror}); free some space and run "
            "the same command again, which continues from the last checkpoint"
        ) from error


def run(request: Request) -> None:
    """`--mode=train`: trains or resumes the run."""
    fit(request.config, request.folder)
