"""Tables of a comparison, independent of the format in which they are written."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import pandas as pd

from mtan_jax.compare import metric_names
from mtan_jax.compare.metric_names import DELTA_M, MEAN_RANK, PARAMETERS, Metric
from mtan_jax.compare.results import Results

MISSING = "-"


@dataclasses.dataclass(frozen=True)
class Cell:
    """The text of a cell, and whether it is bold."""

    text: str
    bold: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """Rows that belong together.

    Attributes:
        title: above the rows; empty for none.
        rows: name and cells.
    """

    title: str
    rows: Sequence[tuple[str, Sequence[Cell]]]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what the values are.
        columns: number of seeds, then one metric per column.
        sections: our groups, and published results.
        notes: below the table.
    """

    caption: str
    columns: Sequence[Metric]
    sections: Sequence[Section]
    notes: Sequence[str]


COUNT = Metric("n", "", "n")


def shown_metrics(results: Results) -> list[Metric]:
    """How the chosen columns are shown; with published results, in their units and decimals."""
    formats = results.published.formats if results.published else {}
    metrics = []
    for name in results.columns:
        metric = metric_names.describe(name, results.directions, results.means[name].abs().max())
        if name in formats:
            factor, decimals = formats[name]
            unit = metric.unit if factor == metric.factor else "%" if factor == 100 else ""
            metric = dataclasses.replace(metric, factor=factor, decimals=decimals, unit=unit)
        metrics.append(metric)
    return metrics


def main_table(results: Results) -> Table:
    """Mean and standard error of each metric per group, the best group in bold, and published results."""
    metrics = shown_metrics(results)
    best = {metric.name: _best(results, metric) for metric in metrics}
    rows = []
    for group in results.groups:
        counts = results.counts.loc[group.name, [m.name for m in metrics if m.name in results.counts]]
        largest = int(counts.max()) if len(counts) else 0
        cells = [Cell(str(largest))]
        for metric in metrics:
            text = _mean_text(results, group.name, metric, largest)
            cells.append(Cell(text, bold=text != MISSING and group.name in best[metric.name]))
        rows.append((_label(results, group.name), cells))
    sections = [Section("", rows), *_published_sections(results, metrics)]
    return Table(results.heading, [COUNT, *metrics], sections, _notes(results, metrics))


def _label(results: Results, name: str) -> str:
    baseline = results.baseline
    return f"{name} (baseline)" if baseline is not None and name == baseline.name != "baseline" else name


def _mean_text(results: Results, group: str, metric: Metric, largest: int) -> str:
    """Mean ± standard error, with the number of seeds if it is smaller than the row's."""
    mean = results.means.at[group, metric.name]
    if not math.isfinite(mean):
        return MISSING
    if metric.name not in results.counts:  # a mean rank or a number of parameters
        return metric.text(mean)
    error, count = results.standard_errors.at[group, metric.name], int(results.counts.at[group, metric.name])
    text = metric.text(mean) + (f" ± {metric.text(error)}" if math.isfinite(error) else "")
    return text if count == largest else f"{text} (n={count})"


def _best(results: Results, metric: Metric) -> set[str]:
    """The groups, other than the baseline, with the best value as printed; empty without two groups to choose from."""
    means = {group.name: results.means.at[group.name, metric.name] for group in results.groups if not group.is_baseline}
    printed = {name: float(metric.text(value)) for name, value in means.items() if math.isfinite(value)}
    if len(printed) < 2 or metric.higher is None:
        return set()
    best = (max if metric.higher else min)(printed.values())
    return {name for name, value in printed.items() if value == best}


def _published_sections(results: Results, metrics: Sequence[Metric]) -> list[Section]:
    published = results.published
    if published is None:
        return []
    rows = []
    for label, row in zip(published.labels(), published.rows, strict=True):
        texts = [metric.text(row.values[metric.name]) if metric.name in row.values else MISSING for metric in metrics]
        rows.append((f"{label} (published)", [Cell(MISSING), *map(Cell, texts)]))
    return [Section(f"published: {published.title}", rows)]


def _notes(results: Results, metrics: Sequence[Metric]) -> list[str]:
    names = {metric.name for metric in metrics}
    baseline = results.baseline
    best = "the best group other than the baseline" if baseline else "the best group"
    notes = [f"Mean ± standard error over n seeds. Bold: {best}."]
    if names & {*DELTA_M}:
        of = f"the mean over seeds of {baseline.name}" if baseline else "config.eval.single_task, as logged"
        notes.append(
            f"Δm: mean relative drop in performance with respect to {of}; negative is better. It is the mean over "
            "metrics (as in CAGrad and Nash-MTL), or over tasks of the mean over their metrics (as in LibMTL)."
        )
    if MEAN_RANK in names:
        but = ", without the baseline" if baseline else ""
        notes.append(f"MR: rank of the group's mean, averaged over the metrics that count for Δm{but}.")
    if PARAMETERS in names:
        notes.append("Parameters are those of the network; a baseline of several networks has the sum.")
    published = results.published
    if published is not None:
        protocol = published.protocol.rstrip(".")
        notes.append(
            f"Published rows ({published.name}): {protocol}. Their Δm is relative to the published "
            f"{published.baseline}, and their MR is as printed."
        )
        for label, row in zip(published.labels(), published.rows, strict=True):
            if row.protocol:
                notes.append(f"{label} (published): {row.protocol}")
    return notes


def difference_table(results: Results) -> Table | None:
    """Differences to the reference with their intervals; bold if the interval excludes 0. None without a reference."""
    differences = results.differences
    if differences is None:
        return None
    metrics = [metric for metric in shown_metrics(results) if metric.name in results.counts]
    rows = []
    for group in results.groups:
        if group.name == results.reference:
            continue
        own = differences.loc[group.name]
        cells = [_difference_cell(own.loc[metric.name], metric) for metric in metrics]
        rows.append((_label(results, group.name), [Cell(str(int(own["n"].max()))), *cells]))
    caption = (
        f"{results.heading}: differences to {results.reference}, paired by seed, with {100 * results.confidence:g} % "
        "intervals (Student's t)"
    )
    notes = [
        "n: seeds in common; one seed gives no interval. Bold: the interval excludes 0, without a correction for "
        "the number of comparisons."
    ]
    return Table(caption, [COUNT, *metrics], [Section("", rows)], notes)


def _difference_cell(row: pd.Series, metric: Metric) -> Cell:
    if not math.isfinite(row["mean"]):
        return Cell(MISSING)
    text = _signed(metric, row["mean"])
    if not math.isfinite(row["low"]):
        return Cell(text)
    return Cell(
        f"{text} [{_signed(metric, row['low'])}, {_signed(metric, row['high'])}]",
        bold=bool(row["low"] > 0 or row["high"] < 0),
    )


def _signed(metric: Metric, value: float) -> str:
    text = metric.text(value)
    return text if text.startswith("-") else f"+{text}"


Render = Callable[[Table], str]


def render(results: Results, table_text: Render, separator: str) -> str:
    """All tables of a comparison in one text."""
    tables = [main_table(results), difference_table(results)]
    return separator.join(table_text(table) for table in tables if table is not None)
