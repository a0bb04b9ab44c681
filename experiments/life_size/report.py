"""Writes README.md's table from results.json.

    python experiments/life_size/report.py [FOLDER]

replaces the text between the two lines of `MARKS` in README.md. Runs without a record are "not run yet".
"""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import bars
import kills
import races
import records
from commands import PARTS

FOLDER = pathlib.Path(__file__).parent
MARKS = ("<!-- from results.json -->", "<!-- end -->")
HEAD = (
    *("run", "examples", "s", "examples/s", "CPU s", "peak RSS, MiB", "peak PSS, MiB", "largest process, MiB"),
    *("disk, MiB", "result"),
)
LIMIT_MIB = 1024  # memory limit of every preparation


def write(folder: pathlib.Path = FOLDER) -> None:
    """Writes the table into the README.md of a folder, which is created if missing."""
    readme = folder / "README.md"
    text = readme.read_text() if readme.exists() else "\n".join(MARKS)
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    readme.write_text(f"{before}{MARKS[0]}\n\n{table(records.read(folder))}\n\n{MARKS[1]}{after}")


def names() -> list[str]:
    """Returns the names of all runs, in the order of the table."""
    planned = [run.name for runs in PARTS.values() for run in runs]
    return [*planned, *kills.names(), *(f"races: {name}" for name in races.RACES), *bars.names()]


def table(found: list[dict[str, Any]]) -> str:
    """Returns Markdown: one row per run, then the conditions."""
    by_name = {record["name"]: record for record in found}
    rows = [HEAD, ["---"] * len(HEAD)]
    rows += [row(name, by_name.get(name)) for name in names()]
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([*lines, *conditions(found)])


def row(name: str, record: Mapping[str, Any] | None) -> list[str]:
    """Returns the cells of a run; for a preparation, the usage until the dataset was finished."""
    if record is None:
        return [name, *[""] * (len(HEAD) - 2), "not run yet"]
    usage = record.get("prepare", record)
    examples, seconds = record.get("examples"), usage.get("seconds")
    rate = f"{examples / seconds:.3g}" if examples and seconds else ""
    measured = [usage.get(key) for key in ("cpu_seconds", "peak_rss_mib", "peak_pss_mib", "largest_mib")]
    cells = [examples, seconds, rate, *measured, record.get("disk_mib")]
    return [name, *("" if value is None else str(value) for value in cells), result(record)]


def result(record: Mapping[str, Any]) -> str:
    """Returns the outcome in a few words."""
    told = record.get("result", "")
    if not record["success"]:
        return f"FAILED {told}".strip() if told else f"FAILED, exit code {record.get('exit')}"
    if "prepare" in record and record["prepare"]["peak_rss_mib"] > LIMIT_MIB:
        return f"done, above {LIMIT_MIB} MiB"
    return told or "done"


def conditions(found: list[dict[str, Any]]) -> list[str]:
    """Returns one line per set of conditions."""
    keys = ("commit", "jax", "python", "cpu", "cores", "memory_gib", "fraction")
    seen: dict[tuple[Any, ...], list[str]] = {}
    for record in found:
        seen.setdefault(tuple(record.get(key) for key in keys), []).append(record["date"])
    lines = []
    for (commit, jax, python, cpu, cores, memory, fraction), dates in seen.items():
        part = "" if fraction in (None, 1) else f"; {fraction:g} of the official number of images"
        lines.append(
            f"{len(dates)} rows: commit {commit}, jax {jax}, Python {python}, {cores} cores of {cpu}, {memory} GiB, "
            f"{min(dates)[:10]} to {max(dates)[:10]}{part}."
        )
    return ["", *lines] if lines else []


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
