"""`metrics.jsonl`: one line of JSON per row of metrics.

The hidden file `.metrics.crc32` beside it has a line "STEP CRC32" for each line of `metrics.jsonl`, so that a damaged
or lost row is detected when a run resumes. Lines without a checksum are accepted if they can be parsed.
"""

import json
import math
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any, TypeAlias

METRICS_FILE = "metrics.jsonl"
CHECKSUMS_FILE = ".metrics.crc32"
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
        ValueError: a line up to `first_step` is damaged or missing.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int):
        path = workdir / METRICS_FILE
        truncate_after(path, first_step)
        self._file = path.open("a")
        self._checksums = path.with_name(CHECKSUMS_FILE).open("a")

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Appends a line and flushes it; `metrics` includes "epoch"."""
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        line = json.dumps({"step": int(step), "epoch": values.pop("epoch"), "split": split, **values}, allow_nan=False)
        self._file.write(f"{line}\n")
        self._file.flush()
        self._checksums.write(_checksum_line(step, line.encode()))
        self._checksums.flush()

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._checksums.close()


def truncate_after(path: pathlib.Path, step: int) -> None:
    """Drops the lines of a metrics file after a step, and an incomplete last line.

    Raises:
        ValueError: a line up to this step is damaged or missing.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    checksums_path = path.with_name(CHECKSUMS_FILE)
    checksums = _read_checksums(checksums_path)
    kept: list[tuple[int, bytes]] = []
    for number in range(1, max(len(lines), len(checksums)) + 1):
        line = lines[number - 1] if number <= len(lines) else b""
        if number <= len(checksums):
            line_step, checksum = checksums[number - 1]
            is_intact = zlib.crc32(line) == checksum
            if is_intact and _parse_line(line, path, number)["step"] != line_step:
                raise _damaged_checksums(checksums_path)
            if line_step <= step and not is_intact:
                raise _damaged(path, number, "its checksum is wrong" if line else "it is missing")
        elif number == len(lines) and not _is_complete(line):
            break  # empty, or the process was killed while writing it
        else:
            line_step = _parse_line(line, path, number)["step"]
        if line_step <= step:
            kept.append((line_step, line))
    _replace(path, b"".join(line + b"\n" for _, line in kept))
    _replace(checksums_path, "".join(_checksum_line(*each) for each in kept).encode())


def find_metrics(path: pathlib.Path, step: int, split: str) -> dict[str, float] | None:
    """Returns the metrics that a file has for a step and a split; None if it has no such line.

    Raises:
        ValueError: a line before the last one is damaged.
    """
    for line in read_metrics(path) if path.exists() else ():
        if (line["step"], line["split"]) == (step, split):
            return {name: value for name, value in line.items() if name not in ("step", "epoch", "split")}
    return None


def read_metrics(path: pathlib.Path, *, timing: bool = True) -> list[Line]:
    """Reads a metrics file; null is read as NaN.

    Args:
        path: path of `metrics.jsonl`.
        timing: whether to include the measurements named in `TIMING`; without them, two runs can be compared.

    Raises:
        ValueError: a line before the last one is damaged.
    """
    lines = path.read_bytes().split(b"\n")
    if not _is_complete(lines[-1]):
        lines.pop()
    return [
        {name: math.nan if value is None else value for name, value in line.items() if timing or name not in TIMING}
        for line in (_parse_line(line, path, number) for number, line in enumerate(lines, start=1))
    ]


def _is_complete(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _parse_line(line: bytes, path: pathlib.Path, number: int) -> Line:
    try:
        parsed = json.loads(line)
    except ValueError as error:
        raise _damaged(path, number, error) from error
    if not (isinstance(parsed, dict) and isinstance(parsed.get("step"), int) and "split" in parsed):
        raise _damaged(path, number, "it has no step or no split")
    return parsed


def _damaged(path: pathlib.Path, number: int, problem: object) -> ValueError:
    return ValueError(
        f"{path}, line {number} is damaged ({problem}). Restore the file from a copy. Or remove the line, if it is "
        f"there, and delete {path.with_name(CHECKSUMS_FILE)}, to continue without this row"
    )


def _checksum_line(step: int, line: bytes) -> str:
    return f"{step} {zlib.crc32(line):08x}\n"


def _read_checksums(path: pathlib.Path) -> list[tuple[int, int]]:
    """The step and the checksum of each line. An incomplete last entry is left out."""
    entries: list[tuple[int, int]] = []
    if not path.exists():
        return entries
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            step, checksum = line.split(b" ")
            entries.append((int(step), int(checksum, 16)))
        except ValueError as error:
            raise _damaged_checksums(path) from error
    return entries


def _damaged_checksums(path: pathlib.Path) -> ValueError:
    return ValueError(f"{path} is damaged; delete it, and run the same command again")


def _replace(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that is complete after a crash, unless it has this content already."""
    if (path.read_bytes() if path.exists() else b"") == content:
        return
    partial = path.with_suffix(".tmp")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
