"""`metrics.jsonl`: one line of JSON per row of metrics."""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypeAlias

METRICS_FILE = "metrics.jsonl"
# Measurements of the machine, which differ from run to run.
TIMING = ("steps_per_second", "seconds")

# A parsed line: the type of a value depends on its key ("split" is a name, "step" an integer, the others are floats).
Line: TypeAlias = dict[str, Any]


class MetricsFile:
    """Sink that appends rows to `metrics.jsonl` in a working directory.

    Each line is a JSON object with "step", "epoch" and "split", followed by the metrics by name. Numbers read back
    exactly. Non-finite numbers are written as null because JSON has no NaN.

    Lines after `first_step` are dropped first, since a resumed run writes them again.

    Args:
        workdir: an existing directory.
        first_step: steps completed before this run starts or resumes.

    Raises:
        ValueError: a line before the last one is damaged.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int):
        path = workdir / METRICS_FILE
        truncate_after(path, first_step)
        self._file = path.open("a")

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Appends a line and flushes it; `metrics` includes "epoch"."""
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        line = {"step": int(step), "epoch": values.pop("epoch"), "split": split, **values}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def truncate_after(path: pathlib.Path, step: int) -> None:
    """Drops the lines of a metrics file after a step, and an incomplete last line.

    Raises:
        ValueError: a line before the last one is damaged.
    """
    if not path.exists():
        return
    text = path.read_text()
    kept = "".join(json.dumps(line) + "\n" for line in _parse(text, path) if line["step"] <= step)
    if kept != text:
        partial = path.with_suffix(".tmp")
        with partial.open("w") as file:
            file.write(kept)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def has_line(path: pathlib.Path, step: int, split: str) -> bool:
    """Whether a metrics file has a line of a step and a split."""
    return path.exists() and any(line["step"] == step and line["split"] == split for line in read_metrics(path))


def read_metrics(path: pathlib.Path, *, timing: bool = True) -> list[Line]:
    """Reads a metrics file; null is read as NaN.

    Args:
        path: path of `metrics.jsonl`.
        timing: whether to include the measurements named in `TIMING`; without them, two runs can be compared.

    Raises:
        ValueError: a line before the last one is damaged.
    """
    return [
        {name: math.nan if value is None else value for name, value in line.items() if timing or name not in TIMING}
        for line in _parse(path.read_text(), path)
    ]


def _parse(text: str, path: pathlib.Path) -> list[Line]:
    lines, parsed = text.splitlines(), []
    for number, line in enumerate(lines, start=1):
        try:
            parsed.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break  # the process was killed while writing this line
            raise ValueError(f"{path}, line {number} is damaged ({error}); remove the line.") from error
    return parsed
