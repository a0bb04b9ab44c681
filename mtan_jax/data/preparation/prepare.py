"""Prepares a dataset: converts raw data to sharded ArrayRecord files that TFDS reads.

The shards are written to a temporary folder next to the final one. The temporary folder is renamed once it is complete.
If a process is killed, only the shards that it was writing are lost; the next preparation writes the missing shards.
"""

import contextlib
import errno
import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict, cast

import tensorflow_datasets as tfds
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mtan_jax.data.preparation import checksums, fingerprint, shards
from mtan_jax.data.preparation.cores import usable_cores
from mtan_jax.data.preparation.preparable import Preparable
from mtan_jax.data.preparation.shard_workers import write_shards
from mtan_jax.data.preparation.shards import Shard
from mtan_jax.runtime import lock

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0  # between lines of progress, if stderr is not a terminal
LONG_WAIT_SECONDS = 60.0  # a wait for another process after which the raw data are checked again
SHARDS_PER_WORKER = 2  # the minimum that makes up for the start of a process
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
RECORD = "preparation.json"  # in a prepared folder: a `Record`


class Record(TypedDict):
    """The inputs of a preparation; shards are reused only if all of these are equal.

    Attributes:
        version: of the dataset.
        code: digest of the code that makes examples.
        raw: fingerprint of the raw files; None without raw files.
        shards: the fields of each `Shard`.
    """

    version: str
    code: str
    raw: str | None
    shards: list[list[str | int]]


def prepare(builder: Preparable, *, workers: int | None, again: bool) -> None:
    """Prepares a dataset; if another process is already preparing it, waits for that one instead.

    Args:
        builder: of the dataset.
        workers: number of processes that make examples; None is one per core.
        again: whether to replace a dataset that is already prepared.

    Raises:
        RawDataError: the raw data are missing, incomplete or damaged.
        WorkerError: a worker failed for another reason.
        OSError: the files cannot be written. If the disk is full or access is denied, the message names the option to
            change.
    """
    target = Path(builder.data_dir)
    before = stamp(target)
    builder.check_raw()
    started = time.monotonic()
    with (
        _explained(target),
        lock.hold(target.with_name(f"{target.name}.lock"), f"the preparation of {target}", wait=True),
    ):
        if builder.reload() and (not again or stamp(target) != before):
            builder.check_same_raw()  # another process prepared it in the meantime
            return
        if time.monotonic() - started > LONG_WAIT_SECONDS:
            builder.check_raw()  # a second time, because the process that this one waited for has failed
        folder = target.with_name(f"incomplete.{target.name}")
        old = target.with_name(f"incomplete.old.{target.name}")
        # `incomplete.*_NAME` is how TFDS itself names its temporary folders.
        for path in (old, *target.parent.glob(f"incomplete.*_{target.name}")):
            if path.exists():
                log.info("removing %s, left behind by an interrupted preparation", path)
                shutil.rmtree(path, ignore_errors=True)  # NFS keeps files that are open elsewhere
        planned = _continue_or_start(builder, folder)
        _write_missing(builder, planned, folder, workers)
        _write_info(builder, planned, folder)
        if target.exists():
            if old.exists():
                old = old.with_name(f"{old.name}.{time.time_ns()}")
            target.rename(old)
        folder.rename(target)
        shutil.rmtree(old, ignore_errors=True)
        shards.remove_summaries(folder)
        builder.reload()


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    """If the disk is full or a folder of `target` is not writable, adds the remedy to the message of the error."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            remedy = "Make room and run the same command again"
        elif error.errno in _FORBIDDEN and _is_in_path(error.filename, target):
            remedy = "Make it writable"
        else:
            raise
        where = error.filename or target.parent
        raise OSError(
            f"{where}: cannot be written ({error.strerror}). {remedy}, or prepare the dataset elsewhere with "
            "--config.data.data_dir=FOLDER."
        ) from error


def _is_in_path(name: str | None, target: Path) -> bool:
    """Whether a path is in the folder that holds `target`, or is that folder or one above it; raw files are not."""
    path, folder = (Path(os.path.realpath(each)) for each in (name or target, target.parent))
    return path.is_relative_to(folder) or folder.is_relative_to(path)


def stamp(folder: Path) -> int | None:
    """A number that changes with each preparation of a folder; None if there is none."""
    try:
        return (folder / RECORD).stat().st_mtime_ns
    except OSError:
        return None


def raw_digest(folder: Path) -> str | None:
    """The fingerprint of the raw data that a prepared folder was made from; "" if unknown."""
    record = _read_record(folder)
    return record["raw"] if record else ""


def _continue_or_start(builder: Preparable, folder: Path) -> list[Shard]:
    """Returns the shards to make. Keeps those of an interrupted preparation in `folder` if its record is the same."""
    folder.mkdir(parents=True, exist_ok=True)
    planned = shards.plan_shards(builder, builder.split_sizes())
    manifest = folder / fingerprint.MANIFEST
    record: Record = {
        "version": str(builder.version),
        "code": shards.code_digest(builder),
        "raw": fingerprint.fingerprint(builder.raw_files(), builder.raw_dir, manifest),
        "shards": [list(shard) for shard in planned],
    }
    before = _read_record(folder)
    if before != record:
        shards.remove_summaries(folder)
    for path in folder.iterdir():
        if (before != record and path != manifest) or path.name.startswith(shards.UNFINISHED):
            path.unlink()
    if before == record:
        log.info("continuing the preparation of %s", builder.data_dir)
    elif before:
        log.info("preparing %s from scratch: the raw data, the options or the program have changed", builder.data_dir)
    else:
        log.info("preparing %s in %s", builder.name, builder.data_dir)
    partial = folder / f"{shards.UNFINISHED}{RECORD}"
    partial.write_text(json.dumps(record) + "\n")
    partial.replace(folder / RECORD)
    return planned


def _read_record(folder: Path) -> Record | None:
    try:
        content = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return None
    return cast(Record, content) if isinstance(content, dict) and "raw" in content else None


def _write_missing(builder: Preparable, planned: Sequence[Shard], folder: Path, workers: int | None) -> None:
    missing = shards.missing(planned, folder)
    total, left = (sum(shard.stop - shard.start for shard in some) for some in (planned, missing))
    needed, free = left * builder.example_bytes(), shutil.disk_usage(folder).free
    if needed > free:
        log.warning(
            "%s may need %s, but its disk has %s free. "
            "Use --config.data.data_dir=FOLDER to prepare it on another disk.",
            *(builder.data_dir, tfds.core.units.Size(needed), tfds.core.units.Size(free) if free else "0 bytes"),
        )
    if all(shard.start == 0 for shard in missing):
        workers = 1  # no split has a second shard: for so few examples, starting a process takes longer
    workers = max(min(usable_cores() if workers is None else workers, -(-len(missing) // SHARDS_PER_WORKER)), 1)
    started = time.monotonic()
    name = f"{builder.name}/{builder.info.config_name}"
    with _Progress(name, total, total - left) as progress:
        write_shards(builder, missing, folder, workers, progress.advance)
    seconds, size = time.monotonic() - started, sum((folder / shard.name).stat().st_size for shard in planned)
    log.info(
        "prepared %s: %d examples in %.0f s (%.3g examples/s, %d %s), %s in %s",
        *(name, left, seconds, left / max(seconds, 1e-9), workers, "process" if workers == 1 else "processes"),
        *(tfds.core.units.Size(size), builder.data_dir),
    )


def _write_info(builder: Preparable, planned: Sequence[Shard], folder: Path) -> None:
    """Writes the files that describe the dataset to TFDS."""
    info = builder.new_info()
    info.metadata.update(builder.metadata(shards.add_summaries(planned, folder)))
    splits = []
    for split in dict.fromkeys(shard.split for shard in planned):
        own = [shard for shard in planned if shard.split == split]
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[shard.stop - shard.start for shard in own],
                num_bytes=sum((folder / shard.name).stat().st_size for shard in own),
                filename_template=shards.file_template(builder, split),
            )
        )
    info.set_splits(tfds.core.SplitDict(splits))
    info.write_to_directory(folder)
    others = {fingerprint.MANIFEST, RECORD, checksums.CHECKSUMS, *(shard.name for shard in planned)}
    checksums.write(folder, {path.name for path in folder.iterdir()} - others)


class _Progress:
    """Reports progress, as a bar on a terminal and as a line every 10 s elsewhere. Thread-safe.

    Args:
        name: of the dataset.
        total: number of examples.
        done: number of examples already made.
    """

    def __init__(self, name: str, total: int, done: int):
        self._name, self._total, self._done, self._first = name, total, done, done
        self._start = self._line_time = time.monotonic()
        self._lock = threading.Lock()
        self._closing = contextlib.ExitStack()
        self._bar: tqdm | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(desc=name, initial=done, total=total, unit="example", dynamic_ncols=True)
            self._closing.enter_context(self._bar)
            self._closing.enter_context(logging_redirect_tqdm())

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def advance(self) -> None:
        """Counts one example."""
        with self._lock:
            self._done += 1
            if self._bar is not None:
                self._bar.update()
            elif (now := time.monotonic()) - self._line_time > SECONDS_BETWEEN_LINES:
                self._line_time = now
                rate = (self._done - self._first) / (now - self._start)
                left = tqdm.format_interval((self._total - self._done) / rate)
                log.info(
                    "%s: %d/%d examples, %.3g examples/s, %s left", self._name, self._done, self._total, rate, left
                )
