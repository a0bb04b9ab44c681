"""The folder of a run's checkpoints: their names, metrics and deletion, but not their arrays.

A checkpoint is a folder named after its step. While it is written or deleted, its name ends with `-tmp`. A folder named
after a step is therefore complete, unless another program has damaged it.
"""

import json
import logging
import math
import pathlib
import re
import shutil
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from mtan_jax.runtime import checkpoint_bucket

NAME = "checkpoints"
DAMAGED_NAME = "damaged_checkpoints"
CHECKSUM = "crc32"  # in the file of metrics
STEP = re.compile("0|[1-9][0-9]*")
LEFTOVER = re.compile(r"[0-9]+\..*-tmp")  # from an interrupted save or deletion

log = logging.getLogger(__name__)


class CheckpointFolder:
    """Manages the folder `checkpoints` of a working directory. One process may change it, others may read it.

    Methods raise OSErrors unless their docstrings say otherwise.

    Args:
        workdir: the working directory.
    """

    def __init__(self, workdir: pathlib.Path):
        path = pathlib.Path(workdir).absolute()
        # orbax simplifies `link/..` to nothing, although it means the parent of the link's target.
        self.path = (path.resolve() if ".." in path.parts else path) / NAME
        self._has_warned = False

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints, oldest first; other files and folders are ignored."""
        if not self.path.exists():
            return []
        return sorted(int(path.name) for path in self.path.iterdir() if STEP.fullmatch(path.name) and path.is_dir())

    def of_step(self, step: int) -> pathlib.Path:
        return self.path / str(step)

    def fetch(self, step: int) -> pathlib.Path:
        """Returns the path of a checkpoint whose arrays will be read, which are downloaded if they are in a bucket.

        Raises:
            FileNotFoundError: it was deleted from the bucket.
            BucketError: the bucket cannot be read.
        """
        checkpoint_bucket.pull(self.of_step(step))
        return self.of_step(step)

    def pending(self, step: int) -> pathlib.Path:
        """Path where a checkpoint is written before `commit` renames it."""
        return self.path / f"{step}.saving-tmp"

    def metric(self, step: int, name: str) -> float | None:
        """Returns a metric of a checkpoint; None if it was not evaluated or no longer exists."""
        try:
            value = _read_metrics(_metrics_path(self.of_step(step)))[name]
        except (OSError, ValueError, LookupError):
            return None
        return value if isinstance(value, int | float) and math.isfinite(value) else None

    def best(self, steps: list[int], metric: str, higher_is_better: bool) -> int | None:
        """Returns the step with the best value of a metric, the newest in case of a tie; None if none has a value."""
        values = {step: value for step in steps if (value := self.metric(step, metric)) is not None}
        sign = 1 if higher_is_better else -1
        return max(values, key=lambda step: (sign * values[step], step), default=None)

    def prepare(self, logged: Callable[[int], dict[str, float] | None]) -> None:
        """Creates the folder; removes leftovers of interrupted saves and deletions; replaces damaged metrics.

        Args:
            logged: returns the metrics that were logged for a step, or None. A checkpoint with damaged metrics and
                without logged ones counts as not evaluated.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        checkpoint_bucket.delete_incomplete(self.path)
        self._delete_leftovers()
        for step in self.steps():
            path = _metrics_path(self.of_step(step))
            try:
                if path.is_file():
                    _read_metrics(path)
            except ValueError as error:
                metrics = logged(step)
                if metrics is None:
                    log.warning("the metrics of checkpoint %d are damaged (%s); deleting them", step, error)
                    path.unlink()
                    continue
                log.warning("the metrics of checkpoint %d are damaged (%s); using the logged ones", step, error)
                partial = path.with_suffix(".tmp")
                partial.write_text(_to_text(metrics))
                partial.replace(path)

    def commit(self, step: int, metrics: dict[str, float] | None) -> None:
        """Renames the pending checkpoint to its final name, replacing one of the same step, and uploads it."""
        pending = self.pending(step)
        path = _metrics_path(pending)
        path.parent.mkdir()
        path.write_text(_to_text(metrics or {}))
        if self.of_step(step).exists():
            checkpoint_bucket.delete(self.of_step(step))
            self._set_aside(step)
        pending.rename(self.of_step(step))
        checkpoint_bucket.push(self.of_step(step))

    def delete(self, steps: set[int]) -> None:
        """Deletes checkpoints. Warns once about those that cannot be deleted, and retries at the next call."""
        for step in sorted(steps):
            try:
                checkpoint_bucket.delete(self.of_step(step))
                self._set_aside(step)
            except OSError as error:
                self._warn(self.of_step(step), error)
        self._delete_leftovers()

    def move_damaged(self, steps: list[int]) -> None:
        """Moves checkpoints to `damaged_checkpoints` or, if that folder is on another disk, renames them in place."""
        target = self.path.parent / DAMAGED_NAME
        for step in steps:
            target.mkdir(exist_ok=True)
            path = _unused(target, str(step))
            checkpoint_bucket.move(self.of_step(step), path)
            try:
                self.of_step(step).rename(path)
            except OSError:  # `checkpoints` may be a link to another disk
                path = _unused(self.path, str(step), ".damaged")
                self.of_step(step).rename(path)
            log.warning("moved the damaged checkpoint %d to %s", step, path)

    def _set_aside(self, step: int) -> None:
        """Renames a checkpoint before it is deleted, because deletion may fail halfway."""
        self.of_step(step).rename(_unused(self.path, f"{step}", ".deleted-tmp"))

    def _delete_leftovers(self) -> None:
        for path in [path for path in self.path.iterdir() if LEFTOVER.fullmatch(path.name)]:
            try:
                if ".deleted" not in path.name:  # the next save needs the name
                    path = path.rename(_unused(self.path, path.name.split(".")[0], ".deleted-tmp"))
                shutil.rmtree(path, ignore_errors=True)  # deletes as much as possible
                if path.exists():
                    shutil.rmtree(path)  # raises the error
            except FileNotFoundError:  # deleted by another process
                pass
            except OSError as error:
                self._warn(path, error)

    def _warn(self, path: pathlib.Path, error: OSError) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "cannot delete the old checkpoint %s (%s: %s). Training continues and retries after each save; delete "
                "the folder yourself if it remains",
                path,
                type(error).__name__,
                error,
            )


def _metrics_path(checkpoint: pathlib.Path) -> pathlib.Path:
    return checkpoint / checkpoint_bucket.METRICS


def _to_text(metrics: Mapping[str, float]) -> str:
    """JSON with a checksum of the metrics."""
    return json.dumps({**metrics, CHECKSUM: zlib.crc32(json.dumps(metrics).encode())})


def _read_metrics(path: pathlib.Path) -> dict[str, Any]:
    """Reads what `_to_text` has written. Older versions wrote no checksum.

    Raises:
        ValueError: the file is damaged.
    """
    metrics = json.loads(path.read_bytes())
    if not isinstance(metrics, dict):
        raise ValueError("it holds no JSON object")
    checksum = metrics.pop(CHECKSUM, None)
    if checksum not in (None, zlib.crc32(json.dumps(metrics).encode())):
        raise ValueError("its checksum is wrong")
    return metrics


def _unused(folder: pathlib.Path, name: str, ending: str = "") -> pathlib.Path:
    """Returns the first of `name`, `name.1`, `name.2`, ..., each with `ending`, that does not exist."""
    path, copies = folder / f"{name}{ending}", 0
    while path.exists():
        copies += 1
        path = folder / f"{name}.{copies}{ending}"
    return path
