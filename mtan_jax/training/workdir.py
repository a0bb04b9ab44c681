"""Working directories: each belongs to one configuration and one dataset, and is used by one training run at a time."""

import contextlib
import functools
import json
import pathlib
from collections.abc import Callable, Iterator

import jax
import ml_collections

from mtan_jax.config import FREE_FIELDS
from mtan_jax.data.dataset_record import DataRecord
from mtan_jax.reporting.metrics_file import METRICS_FILE
from mtan_jax.runtime import lease, lock, mirror, paths
from mtan_jax.runtime.checkpoint import check_workdir
from mtan_jax.runtime.checkpoint_folder import CheckpointFolder
from mtan_jax.training.config_record import flatten_config, is_same

CONFIG_FILE = "config.json"
DATA_FILE = "data.json"  # the record of the run's dataset
LISTED_DIFFERENCES = 12
LOCK_FILE = ".lock"


class WorkdirError(ValueError):
    """The working directory belongs to another configuration or another dataset, or was deleted during training."""


@contextlib.contextmanager
def own(workdir: pathlib.Path) -> Iterator[Callable[[], None]]:
    """Locks a working directory against other training runs while the context is open.

    In a run of several processes, process 0 holds the lock for all. Reading needs no lock.

    Args:
        workdir: created if it is missing.

    Yields:
        A function that raises a WorkdirError if the directory has been deleted, moved or replaced since. Another run
        may own the directory that has its name now.

    Raises:
        LockedError: another run trains in the directory; the message names it.
        PathError: the directory cannot be written.
        CheckpointError: checkpoints cannot be stored under this path.
    """
    if jax.distributed.is_initialized() and jax.process_index() > 0:  # the index alone would start the devices
        yield lambda: None
        return
    paths.check_folder(workdir, "--workdir", write=True)
    check_workdir(workdir)
    base = mirror.remote(workdir)
    if base is not None:
        with lease.hold(base, f"the working directory gs://{base}") as held_lease:
            yield functools.partial(_check_lease, held_lease, workdir)
        return
    remedy = "Wait until it ends, stop it, or use another --workdir."
    with lock.hold(workdir / LOCK_FILE, f"the working directory {workdir}", wait=False, remedy=remedy) as held:

        def check() -> None:
            if held.is_lost():
                raise WorkdirError(
                    f"the working directory {workdir} was deleted, moved or replaced during training, so the run ends. "
                    "Move it back and run the same command again, or use another --workdir."
                )

        yield check


def _check_lease(held: lease.Lease, workdir: pathlib.Path) -> None:
    if held.is_lost():
        raise WorkdirError(
            f"the working directory {workdir} was deleted or taken over by another run, so the run ends. Use another "
            "--workdir, or stop the other run and run the same command again."
        )


def claim(workdir: pathlib.Path, config: ml_collections.ConfigDict, *, write: bool) -> None:
    """Claims a working directory for a configuration: writes `config.json`, or compares with the one that exists.

    Fields that do not affect results (`mtan_jax.config.FREE_FIELDS`) may differ. A directory without a log line or a
    checkpoint belongs to no run, and its `config.json` is replaced.

    Args:
        workdir: created if it is missing and `write` is set.
        config: of this run.
        write: whether this process writes.

    Raises:
        WorkdirError: the directory belongs to another configuration; the message lists the fields that differ.
        CheckpointError: checkpoints cannot be stored under this path.
    """
    check_workdir(workdir)
    path = workdir / CONFIG_FILE
    ours = flatten_config(config)
    if not path.exists() or not holds_results(workdir):
        if write:
            workdir.mkdir(parents=True, exist_ok=True)
            _write(path, json.dumps(ours, indent=2) + "\n")
        return
    try:
        theirs = json.loads(path.read_bytes())
    except ValueError as error:
        raise WorkdirError(f"{path} is damaged ({error}); delete it, or use another --workdir") from error
    different = [
        name
        for name in dict.fromkeys([*ours, *theirs])
        if name not in FREE_FIELDS and not is_same(name, ours.get(name), theirs.get(name))
    ]
    if different:
        lines = [f"config.{name}: {theirs.get(name)!r} there, {ours.get(name)!r} here" for name in different]
        raise WorkdirError(
            f"{workdir} belongs to a run with another configuration:\n{_list(lines)}\n"
            f"Use another --workdir, or the same configuration, which {path} records."
        )


def claim_data(workdir: pathlib.Path, record: DataRecord, *, write: bool) -> None:
    """Claims a working directory for a dataset: writes `data.json`, or compares with the one that exists.

    Args:
        workdir: created if it is missing and `write` is set.
        record: of the prepared dataset.
        write: whether this process writes.

    Raises:
        WorkdirError: the run was trained on another dataset, or the file is damaged.
    """
    kept = read_data(workdir)
    if kept is None:
        if write:
            workdir.mkdir(parents=True, exist_ok=True)
            _write(workdir / DATA_FILE, record.to_json())
        return
    if different := kept.differences(record):
        raise WorkdirError(
            f"the run in {workdir} was trained on another dataset ({DATA_FILE}):\n{_list(different)}\n"
            "Use another --workdir, or the same dataset. To fine-tune this run's network on another dataset, set "
            f"--config.model.init_from={workdir} in a new --workdir."
        )


def read_data(workdir: pathlib.Path) -> DataRecord | None:
    """Reads the record of a run's dataset; None if the directory has no results or no record.

    Raises:
        WorkdirError: `data.json` is damaged.
    """
    path = workdir / DATA_FILE
    if not path.exists() or not holds_results(workdir):
        return None
    try:
        return DataRecord.from_json(path.read_text())
    except ValueError as error:
        raise WorkdirError(
            f"{path} is damaged ({error}); delete it, and run the training command again on a machine that has "
            "the dataset, which writes the file again"
        ) from error


def holds_results(workdir: pathlib.Path) -> bool:
    """Whether a run has written a log line or a checkpoint."""
    metrics = workdir / METRICS_FILE
    return bool(CheckpointFolder(workdir).steps()) or (metrics.exists() and metrics.stat().st_size > 0)


def _write(path: pathlib.Path, text: str) -> None:
    partial = path.with_suffix(".tmp")
    partial.write_text(text)
    partial.replace(path)


def _list(lines: list[str]) -> str:
    if len(lines) > LISTED_DIFFERENCES:
        lines = [*lines[:LISTED_DIFFERENCES], f"and {len(lines) - LISTED_DIFFERENCES} more"]
    return "\n".join(f"  {line}" for line in lines)
