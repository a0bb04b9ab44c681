"""Prints the published numbers as Markdown tables, and writes them into README.md.

python experiments/published/report.py [NAME ...]

With names, such as nyuv2, it prints the tables of these files. Without, it replaces the text between the two lines of
`MARKS` in README.md.
"""

import json
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

FOLDER = pathlib.Path(__file__).parent
MARKS = ("<!-- from the JSON files -->", "<!-- end -->")
# In the order of README.md: the benchmark, the paper, others.
NAMES = ("nyuv2", "cityscapes", "nyuv2_paper", "cityscapes_paper", "nyuv2_resnet50", "decathlon", "celeba", "qm9")
SHORT = {
    "semantic/miou": "mIoU",
    "semantic/pixel_accuracy": "pixel acc.",
    "depth/abs_error": "abs. err.",
    "depth/rel_error": "rel. err.",
    "normal/mean": "mean",
    "normal/median": "median",
    "normal/within_11.25": "11.25°",
    "normal/within_22.5": "22.5°",
    "normal/within_30": "30°",
    "decathlon/score": "score",
    "mean/accuracy": "mean",
}
Row = Mapping[str, Any]


def load(name: str) -> dict[str, Any]:
    """Reads a file. Its numbers are Decimals, which keep the printed digits: 28.40 is not 28.4."""
    text = (FOLDER / "data" / f"{name}.json").read_text()
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def delta_m(published: Mapping[str, Any], values: Mapping[str, Decimal]) -> float | None:
    """Mean over the metrics of the relative loss against the baseline in percent; None without cells or baseline."""
    baseline = next(row["values"] for row in published["rows"] if row["method"] == published["baseline"])
    if not values or not baseline or "decathlon/score" in baseline:
        return None
    losses = []
    for metric in published["metrics"]:
        base = baseline[metric["name"]]
        change = float((values[metric["name"]] - base) / base)
        losses.append(-change if metric["better"] == "higher" else change)
    return 100 * sum(losses) / len(losses)


def tables(name: str) -> str:
    """The rows of a file with their replications, the notes, and the sources."""
    published = load(name)
    sources: list[str] = []
    metrics = published["metrics"]
    arrows = {"higher": "↑", "lower": "↓"}
    heads = ["method", "architecture"]
    heads += [f"{SHORT.get(one['name'], one['name'].split('/')[0])} {arrows[one['better']]}" for one in metrics]
    heads += ["Δm ↓", "Δm of the cells ↓", "MR ↓", "source"]
    rows = list(lines(published, sources))
    kept = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    parts = [f"### {published['title']} (`{name}`)", published["protocol"], markdown(heads, rows, kept)]
    notes = list(remarks(published))
    parts += ["\n".join(notes)] if notes else []
    parts.append("\n".join(f"{i}. {source}" for i, source in enumerate(sources, 1)))
    return "\n\n".join(parts) + "\n"


def remarks(published: Mapping[str, Any]) -> Iterator[str]:
    """Notes and protocols of rows, and notes of replications, as items of a list."""
    for row in published["rows"]:
        for label, remark in (("", row["note"]), (", protocol", row["protocol"])):
            if remark:
                yield f"- {row['method']}{label}: {remark}"
        for again in row["replications"]:
            if again["note"]:
                yield f"- {row['method']}, rerun: {again['note']}"


def lines(published: Mapping[str, Any], sources: list[str]) -> Iterator[list[str]]:
    """The cells of the table. `sources` is extended; a source is cited by its place there."""
    for row in published["rows"]:
        yield line(published, row["method"], row["architecture"], row, sources)
        for again in row["replications"]:
            yield line(published, f"{row['method']}, rerun", row["architecture"], again, sources)


def line(published: Mapping[str, Any], label: str, architecture: str, row: Row, sources: list[str]) -> list[str]:
    """One line of the table, for a row or one of its replications."""
    values = row["values"]
    cells = [str(values.get(metric["name"], "")) for metric in published["metrics"]]
    from_cells = None if label == published["baseline"] else delta_m(published, values)
    overall = [shown(row["delta_m"]), "" if from_cells is None else f"{from_cells:.2f}", shown(row.get("mean_rank"))]
    return [label, f"`{architecture}`", *cells, *overall, cite(row, sources)]


def shown(value: Decimal | None) -> str:
    """The printed digits, or nothing."""
    return "" if value is None else str(value)


def cite(row: Row, sources: list[str]) -> str:
    """The number of the source in the list, and the table."""
    source = row["source"]
    text = source["paper"] or ""
    if source["repository"]:
        url = f"https://github.com/{source['repository']}/blob/{source['commit']}/{source['path']}"
        text = f"{text}{'. ' if text else ''}[{source['repository']}]({url}), commit {source['commit'][:7]}"
    if text not in sources:
        sources.append(text)
    return f"[{sources.index(text) + 1}] {source['table']}"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]], kept: Sequence[int]) -> str:
    """A Markdown table of the kept columns."""
    whole = [[heads[i] for i in kept], ["---"] * len(kept), *([row[i] for i in kept] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in whole)


def gaps(name: str) -> str:
    """Delta-m of published rows beside that of their reruns, and the mean difference per source.

    Both are those of the cells where there are cells, and as printed otherwise.
    """
    published = load(name)
    rows: list[list[str]] = []
    differences: dict[str, list[float]] = {}
    for row in published["rows"]:
        for again in row["replications"]:
            first, second = comparable(published, row), comparable(published, again)
            by = author(again["source"])
            differences.setdefault(by, []).append(second - first)
            rows.append([row["method"], f"{first:.2f}", f"{second:.2f}", f"{second - first:+.2f}", by])
    means = [
        f"- {by}: mean difference {sum(found) / len(found):+.2f}, mean absolute difference "
        f"{sum(map(abs, found)) / len(found):.2f}, {len(found)} methods"
        for by, found in differences.items()
        if len(found) > 2
    ]
    table = markdown(["method", "published Δm ↓", "rerun Δm ↓", "difference", "rerun by"], rows, range(5))
    return "\n\n".join([f"`{name}`:", table, *(["\n".join(means)] if means else [])]) + "\n"


def comparable(published: Mapping[str, Any], row: Row) -> float:
    """Delta-m of the cells, or as printed without cells."""
    computed = delta_m(published, row["values"])
    return float(row["delta_m"]) if computed is None else computed


def author(source: Mapping[str, str | None]) -> str:
    """The authors and the arXiv number of a paper, or the name of the repository."""
    paper = source["paper"]
    if paper is None:
        return str(source["repository"]).split("/")[1]
    arxiv = re.search(r"arXiv:\S+", paper)
    return f"{paper.split(':')[0]}, {arxiv.group()}" if arxiv else paper


def text() -> str:
    """What stands between the marks of README.md: the reruns, then the tables of every file."""
    rerun = [name for name in NAMES if any(row["replications"] for row in load(name)["rows"])]
    parts = ["## Published and rerun\n", *map(gaps, rerun), "## Tables\n", *map(tables, NAMES)]
    return "\n".join(parts)


def write() -> None:
    """Replaces the text between the marks of README.md."""
    readme = FOLDER / "README.md"
    before, after = readme.read_text().split(MARKS[0])[0], readme.read_text().split(MARKS[1])[1]
    readme.write_text(f"{before}{MARKS[0]}\n\n{text()}\n{MARKS[1]}{after}")


def main(names: Sequence[str]) -> None:
    """Prints the tables of some files, or writes those of all into README.md."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        sys.exit(f"error: there is no file {', '.join(unknown)}; known names: {', '.join(NAMES)}")
    for name in names:
        sys.stdout.write(tables(name))
    if not names:
        write()


if __name__ == "__main__":
    main(sys.argv[1:])
