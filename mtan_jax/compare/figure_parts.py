"""Colors, legends and panels that the figures of comparisons share."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from mtan_jax.compare.results import Results
from mtan_jax.reporting.figure_style import DOTS_PER_INCH, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4  # panels in a row
PANEL = 2.5  # height in inches
_LINE = 0.17  # height in inches of a line of a legend
_COLORS = 10  # of matplotlib's default cycle
_STYLES = ("-", "--", ":", "-.")
_MARKERS = "osD^vP*X<>"


class SkippedError(Exception):
    """A figure has no data; the message says what is missing."""


@dataclasses.dataclass(frozen=True)
class Style:
    """How a group is drawn: a color, and for more groups than colors also a line style and a marker."""

    color: str
    line: Any  # matplotlib's types list all values
    marker: Any


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A style for each name: first all colors, then the next line style and marker."""
    return {name: _style(i % _COLORS, i // _COLORS) for i, name in enumerate(names)}


def _style(color: int, kind: int) -> Style:
    return Style(f"C{color}", _STYLES[kind % len(_STYLES)], _MARKERS[kind % len(_MARKERS)])


def group_styles(results: Results) -> dict[str, Style]:
    """The style of each group, the same in all figures; the baseline is black.

    If the groups differ in two fields with few values, one field determines the color and the other the line.
    """
    groups = [group for group in results.groups if not group.is_baseline]
    names = list(dict.fromkeys(name for group in groups for name in group.fields))
    values = {name: list(dict.fromkeys(group.fields.get(name, "") for group in groups)) for name in names}
    by_count = sorted((name for name in names if len(values[name]) > 1), key=lambda name: len(values[name]))
    if len(by_count) == 2 and len(values[by_count[0]]) <= len(_STYLES) and len(values[by_count[1]]) <= _COLORS:
        line, color = by_count
        found = {
            group.name: _style(
                values[color].index(group.fields.get(color, "")), values[line].index(group.fields.get(line, ""))
            )
            for group in groups
        }
    else:
        found = styles([group.name for group in groups])
    return {group.name: found.get(group.name, Style("black", "-", "o")) for group in results.groups}


def panels(count: int, names: Sequence[str], title: str) -> tuple["Figure", list["Axes"], dict[str, Any]]:
    """A figure with panels in rows of `COLUMNS`, a title, and room for a legend below.

    Returns:
        The figure, its panels, and the arguments that place the legend.
    """
    from matplotlib.figure import Figure

    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    entries = max(1, int(WIDTH / (0.06 * max(map(len, names), default=0) + 0.55)))  # in a line of the legend
    height = (PANEL if count > 1 else 2 * PANEL) * rows + _LINE * math.ceil(len(names) / entries) + 0.4
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS_PER_INCH, layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    placed = {"loc": "outside lower center", "ncols": entries, "fontsize": 7, "frameon": False}
    return figure, axes[:count], placed


def legend_lines(names: Mapping[str, Style], *, marker: bool = False) -> list[Any]:
    """The entries of a legend, as lines or as markers."""
    from matplotlib.lines import Line2D

    if marker:
        return [
            Line2D([], [], color=style.color, linestyle="", marker=style.marker, markersize=5, label=name)
            for name, style in names.items()
        ]
    return [Line2D([], [], color=style.color, linestyle=style.line, label=name) for name, style in names.items()]


def draw_band(axis: "Axes", values: pd.DataFrame, style: Style, alpha: float) -> None:
    """Draws the mean over seeds, and a band of one standard error.

    Args:
        axis: to draw on.
        values: one row per step, one column per run.
        style: of the line.
        alpha: opacity of the band.
    """
    mean, error = values.mean(axis=1), values.sem(axis=1, ddof=1)
    marker = "o" if len(mean) == 1 else ""  # a line through one point would be invisible
    axis.plot(mean.index, mean, color=style.color, linestyle=style.line, linewidth=1.2, marker=marker, markersize=3)
    axis.fill_between(mean.index, mean - error, mean + error, color=style.color, alpha=alpha, linewidth=0)
