"""Finds working directories and reads what a comparison needs from them: configuration, dataset and metrics."""

import dataclasses
import glob
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mtan_jax.compare.errors import ComparisonError
from mtan_jax.reporting.metrics_file import METRICS_FILE, Line, read_metrics
from mtan_jax.runtime import paths

# As in `mtan_jax.training.workdir`, which imports JAX.
CONFIG_FILE = "config.json"
DATA_FILE = "data.json"
DEPTH = 4  # how many levels below a given folder working directories are searched


@dataclasses.dataclass(frozen=True, eq=False)
class StoredRun:
    """A run as its working directory records it.

    Attributes:
        name: path of the working directory, as given.
        config: the flat configuration (`mtan_jax.training.config_record`).
        data: the record of the dataset (`mtan_jax.data.dataset_record`) as parsed JSON; None if there is none.
        rows: the rows of `metrics.jsonl`.
    """

    name: str
    config: Mapping[str, Any]
    data: Mapping[str, Any] | None
    rows: Sequence[Line]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.config["tasks"])

    def rows_of(self, split: str) -> list[Line]:
        """The rows of a split, in the order of their steps."""
        return [row for row in self.rows if row["split"] == split]

    @property
    def last_evaluation(self) -> Line | None:
        """The last row of the split "val", which training writes at the end too."""
        return next(reversed(self.rows_of("val")), None)

    @property
    def is_complete(self) -> bool:
        """Whether the evaluation at the end of `config.duration` is there.

        The training loop ends at the first step that reaches the duration. Rows hold their step and the number of
        epochs at this step, so the size of the dataset is not needed.
        """
        last = self.last_evaluation
        if last is None:
            return False
        number, _, unit = self.config["duration"].strip().partition(" ")
        done = {
            "step": last["step"],
            "epoch": last["epoch"],
            "example": last["step"] * self.config["batch_size"],
        }[unit.strip().removesuffix("s")]
        return done >= float(number) * (1 - 1e-9)  # an epoch is rarely a whole number of steps


def read_runs(patterns: Iterable[str | os.PathLike[str]]) -> tuple[list[StoredRun], list[str]]:
    """Reads all runs in some folders.

    Args:
        patterns: working directories, folders that contain working directories, and glob patterns of both.

    Returns:
        The runs in the order of the patterns, and one line for each folder without a run and for each run that cannot
        be read.

    Raises:
        ComparisonError: there is no run, or a path is in a bucket.
    """
    runs: dict[pathlib.Path, StoredRun] = {}
    problems: list[str] = []
    for path in _expand(patterns, problems):
        folders = list(_workdirs(path, DEPTH)) if path.is_dir() else []
        if not folders:
            kind = f"contains no {CONFIG_FILE}, nor do its folders" if path.is_dir() else "is not a folder"
            problems.append(f"{path} {kind}, so it is left out; give working directories of runs")
        for folder in folders:
            if folder.resolve() in runs:
                continue
            try:
                runs[folder.resolve()] = _read(folder)
            except (ValueError, KeyError, TypeError, OSError) as error:
                problems.append(f"{folder} is left out: {error}")
    if not runs:
        reasons = "".join(f"\n  {line}" for line in problems)
        raise ComparisonError(f"there is no run to compare; give working directories, such as runs/*{reasons}")
    return list(runs.values()), problems


def _expand(patterns: Iterable[str | os.PathLike[str]], problems: list[str]) -> Iterator[pathlib.Path]:
    for pattern in patterns:
        text = os.fspath(pattern)
        if paths.is_remote(text):
            raise ComparisonError(
                f"{text} is not a local path; copy {CONFIG_FILE}, {DATA_FILE} and {METRICS_FILE} of each run to a "
                "local folder, for example with gcloud storage rsync"
            )
        path = paths.expanded(text)
        if path.exists() or not glob.has_magic(text):  # a folder may be called run[1]
            yield path
            continue
        found = sorted(glob.glob(str(path), recursive=True))
        if not found:
            problems.append(f"{text} matches no file or folder")
        yield from map(pathlib.Path, found)


def _workdirs(folder: pathlib.Path, depth: int) -> Iterator[pathlib.Path]:
    """The folder itself if it is a working directory, otherwise those in it."""
    if (folder / CONFIG_FILE).is_file():
        yield folder
    elif depth:
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _workdirs(child, depth - 1)


def _read(folder: pathlib.Path) -> StoredRun:
    config = _read_object(folder / CONFIG_FILE)
    missing = [name for name in ("seed", "tasks", "duration", "batch_size") if name not in config]
    if missing:
        raise ValueError(f"{CONFIG_FILE} has no field {', '.join(missing)}")
    data = _read_object(folder / DATA_FILE) if (folder / DATA_FILE).exists() else None
    if not (folder / METRICS_FILE).exists():
        raise ValueError(f"it has no {METRICS_FILE} yet")
    return StoredRun(str(folder), config, data, read_metrics(folder / METRICS_FILE, timing=False))


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is damaged (it holds no JSON object)")
    return content
