"""Writes the tables of README.md from results.json.

python experiments/weighting_speed/report.py
"""

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

MARKS = ("<!-- from results.json -->", "<!-- end -->")
LIBRARIES = ("mtan_jax", "TorchJD", "LibMTL")
SHORT = {
    "together": "t",
    "one_by_one": "o",
    "gram": "g",
    "one pass": "",
    "autojac": "j",
    "autojac one by one": "jo",
    "autojac one by one compiled": "joc",
    "autogram": "ag",
    "scalarizer": "",
    "scalarizer compiled": "c",
    "backward": "",
    "backward compiled": "c",
}
Record = Mapping[str, Any]


def write(folder: pathlib.Path) -> None:
    """Puts the tables between the marks of README.md."""
    readme = folder / "README.md"
    results = json.loads((folder / "results.json").read_text())
    text = readme.read_text() if readme.exists() else "\n".join(MARKS)
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    readme.write_text(f"{before}{MARKS[0]}\n\n{tables(results)}\n{MARKS[1]}{after}")


def tables(results: Mapping[str, Any]) -> str:
    """The setup, one table per case, all variants, the differences of the first updates, and errors."""
    cases = list(dict.fromkeys((record["network"], record["tasks"]) for record in results["records"]))
    parts = [setup(results)]
    parts += ["## Ours, fastest variant / faster of TorchJD and LibMTL\n"]
    parts += [summary(results["records"], cases, list(SHORT))]
    parts += ["## Ours, default (`together`) / faster of TorchJD and LibMTL\n"]
    parts += [summary(results["records"], cases, ("together", "one pass"))]
    for network, tasks in cases:
        records = [one for one in results["records"] if (one["network"], one["tasks"]) == (network, tasks)]
        parts += [f"## {network.upper()}, {tasks} tasks\n", fastest(records)]
    parts += ["## All variants: milliseconds per step\n", variants(results["records"], cases)]
    parts += ["## First updates\n", differences(results["records"], cases)]
    parts += ["## Errors\n", errors(results)]
    return "\n".join(parts)


def setup(results: Mapping[str, Any]) -> str:
    """Versions, hardware and load."""
    ours, torch = results["versions"]["mtan_jax"], results["versions"]["PyTorch"]
    loads = results["load_average"]
    turns = [len(record["ms"]) for record in results["records"] if "ms" in record]
    return (
        f"Commit {results['commit']}, jax {ours['jax']}, jaxlib {ours['jaxlib']}, Python {ours['python']}; PyTorch "
        f"{torch['torch']}, Python {torch['python']}, TorchJD {results['torchjd']}, LibMTL {results['libmtl']}. "
        f"Processor: {results['hardware']['processor']}; CPUs: {results['hardware']['cpus']}; threads of PyTorch: "
        f"{torch['threads']}. {min(turns)} to {max(turns)} turns, {results['minutes']} minutes, load average "
        f"{min(loads)} to {max(loads)}.\n"
    )


def median(record: Record) -> float:
    """Milliseconds per step, the median over turns."""
    return statistics.median(record["ms"])


def best(records: Sequence[Record], method: str, library: str) -> Record:
    """The variant with the smallest median."""
    found = [one for one in records if (one["method"], one["library"]) == (method, library) and "ms" in one]
    return min(found, key=median)


def ratio(top: Record, bottom: Record) -> list[float]:
    """The median over turns of the ratio of two steps, and its extremes."""
    ratios = [a / b for a, b in zip(top["ms"], bottom["ms"], strict=True)]
    return [statistics.median(ratios), min(ratios), max(ratios)]


def methods_of(records: Sequence[Record]) -> list[str]:
    """The methods, in the order of the records."""
    return list(dict.fromkeys(record["method"] for record in records))


def summary(records: Sequence[Record], cases: Sequence[tuple[str, int]], variants: Sequence[str]) -> str:
    """The ratios of our fastest of some variants to the fastest of both other libraries."""
    rows = [["method", *(f"{network.upper()}, {tasks} tasks" for network, tasks in cases)]]
    for method in methods_of(records):
        row = [f"`{method}`"]
        for case in cases:
            of_case = [one for one in records if (one["network"], one["tasks"]) == case]
            ours = [one for one in of_case if one["library"] != LIBRARIES[0] or one["variant"] in variants]
            theirs = min((best(of_case, method, library) for library in LIBRARIES[1:]), key=median)
            row.append(f"{ratio(best(ours, method, LIBRARIES[0]), theirs)[0]:.2f}")
        rows.append(row)
    return markdown(rows)


def fastest(records: Sequence[Record]) -> str:
    """The fastest variant of each library, and the ratios of ours to theirs."""
    rows = [["method", *(f"{library}, ms" for library in LIBRARIES), "ours / TorchJD", "ours / LibMTL"]]
    for method in methods_of(records):
        ours, *theirs = [best(records, method, library) for library in LIBRARIES]
        cells = [f"{median(one):.3g} {mark(one)}".strip() for one in (ours, *theirs)]
        ratios = [ratio(ours, one) for one in theirs]
        rows.append(
            [f"`{method}`", *cells, *(f"{middle:.2f} ({low:.2f} to {high:.2f})" for middle, low, high in ratios)]
        )
    return markdown(rows)


def mark(record: Record) -> str:
    """The variant's letters, in brackets."""
    letters = SHORT[record["variant"]]
    return f"({letters})" if letters else ""


def variants(records: Sequence[Record], cases: Sequence[tuple[str, int]]) -> str:
    """The median of every variant."""
    rows = [["method", "library", "variant", *(f"{network.upper()}, {tasks}" for network, tasks in cases)]]
    keys = [(one["method"], one["library"], one["variant"]) for one in records]
    order = methods_of(records)
    for key in sorted(dict.fromkeys(keys), key=lambda key: order.index(key[0])):
        cells = []
        for case in cases:
            (record,) = [one for one in records if matches(one, case, key)]
            cells.append(f"{median(record):.3g}" if "ms" in record else "fails")
        rows.append([f"`{key[0]}`", key[1], f"{key[2]}", *cells])
    return markdown(rows)


def matches(record: Record, case: tuple[str, int], key: tuple[str, str, str]) -> bool:
    """Whether a record is of a case and a step."""
    return (record["network"], record["tasks"]) == case and (
        record["method"],
        record["library"],
        record["variant"],
    ) == key


def differences(records: Sequence[Record], cases: Sequence[tuple[str, int]]) -> str:
    """The largest distance from ours of the first updates of the shared parameters, over a library's variants."""
    rows = [["method", "library", *(f"{network.upper()}, {tasks}" for network, tasks in cases)]]
    for method in methods_of(records):
        for library in LIBRARIES:
            of_row = [one for one in records if (one["method"], one["library"]) == (method, library)]
            cells = []
            for case in cases:
                of_case = [one for one in of_row if (one["network"], one["tasks"]) == case]
                found = [one["differs_by"]["shared"] for one in of_case if one.get("differs_by")]
                cells.append(f"{max(found):.0e}" if found else "")
            if any(cells):
                rows.append([f"`{method}`", library, *cells])
    return markdown(rows)


def errors(results: Mapping[str, Any]) -> str:
    """What did not run."""
    lines = [f"- {one['step']}: `` {one['error'].splitlines()[0]} ``" for one in results["tried"]]
    for record in results["records"]:
        if "error" in record:
            case = f"{record['network'].upper()}, {record['tasks']} tasks"
            what = f"{record['library']} {record['method']} {record['variant']}, {case}"
            lines.append(f"- {what}: `` {record['error'].splitlines()[0]} ``")
    return "\n".join(lines) + "\n"


def one_record_a_line(results: Mapping[str, Any]) -> str:
    """Formats results.json with one record per line."""
    head = {key: value for key, value in results.items() if key != "records"}
    lines = ",\n".join(f"    {json.dumps(record)}" for record in results["records"])
    return json.dumps(head, indent=2)[:-2] + f',\n  "records": [\n{lines}\n  ]\n}}\n'


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]]) + "\n"


if __name__ == "__main__":
    write(pathlib.Path(__file__).parent)
