"""Writes a comparison as LaTeX tables with booktabs."""

import itertools
import re
from collections.abc import Sequence

from mtan_jax.compare.metric_names import Metric
from mtan_jax.compare.results import Results
from mtan_jax.compare.tables import Cell, Table, render

NARROW = 5  # columns that fit the width of a page
_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\to$",
    "°": r"$^\circ$",
    "×": r"$\times$",  # noqa: RUF001
    "–": "--",  # noqa: RUF001
    "−": "$-$",  # noqa: RUF001
    "…": r"\dots{}",
}


def to_latex(results: Results) -> str:
    r"""The tables with booktabs, as wide as the page, and their notes; the warnings are comments.

    Wide tables are scaled with graphicx's `\resizebox`.
    """
    comments = [r"needs \usepackage{booktabs,graphicx}", *(f"warning: {line}" for line in results.warnings)]
    text = "".join(f"% {' '.join(line.split())}\n" for line in comments)
    return text + render(results, _table, "\n")


def escape(text: str) -> str:
    """The text with LaTeX's special characters escaped."""
    parts = ("".join(_SPECIAL.get(character, character) for character in part) for part in text.split("Δm"))
    return r"$\Delta_m$".join(parts)


def _table(table: Table) -> str:
    is_wide = len(table.columns) > NARROW
    lines = [
        r"\begin{table*}",
        r"\centering",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escape(table.caption)}.}}",
        *([r"\resizebox{\textwidth}{!}{%"] if is_wide else []),
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        *_header(table.columns),
        r"\midrule",
    ]
    for section in table.sections:
        if section.title:
            width = len(table.columns) + 1
            lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escape(section.title)}}}}} \\"]
        lines += [rf"{escape(name)} & {' & '.join(map(_cell, cells))} \\" for name, cells in section.rows]
    notes = r" \\ ".join(map(escape, table.notes))
    lines += [r"\bottomrule", r"\end{tabular}" + ("}" if is_wide else "")]
    lines += ["", r"\medskip", rf"\parbox{{\textwidth}}{{\footnotesize {notes}}}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


def _header(columns: Sequence[Metric]) -> list[str]:
    """The tasks above their metrics, and the metrics with their directions."""
    tasks, rules, position = [], [], 2
    for task, members in itertools.groupby(columns, key=lambda metric: metric.task):
        count = len(list(members))
        tasks.append(rf"\multicolumn{{{count}}}{{c}}{{{escape(task)}}}")
        if task:
            rules.append(rf"\cmidrule(lr){{{position}-{position + count - 1}}}")
        position += count
    names = [
        " ".join(filter(None, (metric.label, f"({metric.unit})" if metric.unit else "", metric.arrow)))
        for metric in columns
    ]
    second = rf" & {' & '.join(map(escape, names))} \\"
    return [rf" & {' & '.join(tasks)} \\", *([" ".join(rules)] if rules else []), second] if rules else [second]


def _cell(cell: Cell) -> str:
    text = escape(re.sub(r"(?<![\w.])-(?=\d)", "−", cell.text))  # noqa: RUF001
    mean, sign, error = text.partition(r" $\pm$ ")
    mean = rf"\textbf{{{mean}}}" if cell.bold else mean
    return mean + (rf"\,{{\tiny$\pm$\,{error}}}" if sign else "")
