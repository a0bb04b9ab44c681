"""Figures of final values: per metric, per weighting method, and over the number of parameters."""

import math
from typing import TYPE_CHECKING

import pandas as pd

from mtan_jax.compare.figure_parts import COLUMNS, SkippedError, Style, group_styles, legend_lines, panels, styles
from mtan_jax.compare.metric_names import DELTA_M, PARAMETERS, Metric
from mtan_jax.compare.results import Results
from mtan_jax.compare.tables import shown_metrics
from mtan_jax.reporting.figure_style import DOTS_PER_INCH, WIDTH, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ARCHITECTURE, _WEIGHTING = "model.arch", "weighting"


def draw_metrics(results: Results) -> "Figure":
    """One panel per metric: the value of each group with its standard error, and the seeds as dots.

    Scores for which 0 means "as good as the baseline" are bars. The other axes do not begin at 0, so they have points.
    """
    from matplotlib.figure import Figure

    metrics = [metric for metric in shown_metrics(results) if results.means[metric.name].notna().any()]
    names = [group.name for group in results.groups]
    columns = min(len(metrics), COLUMNS)
    rows = math.ceil(len(metrics) / columns)
    labels = 0.06 * max(map(len, names)) + 0.2
    height = (0.19 * len(names) + 0.75) * rows + 0.4
    width = labels + (WIDTH - 2) / COLUMNS * columns
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    figure.suptitle(f"{results.heading}: mean ± standard error over seeds", fontsize=10)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axis in axes[len(metrics) :]:
        axis.remove()
    colors = group_styles(results)
    for axis, metric in zip(axes, metrics, strict=False):
        for position, name in enumerate(names):
            _draw_value(axis, results, name, metric, position, colors[name])
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.4, -0.6)
        finish(axis, f"{metric.title} {metric.arrow}".strip(), "", legend=False)
    return figure


def _draw_value(axis: "Axes", results: Results, name: str, metric: Metric, position: int, style: Style) -> None:
    mean = results.means.at[name, metric.name] * metric.factor
    if not math.isfinite(mean):
        return
    error = 0.0
    if metric.name in results.standard_errors:
        error = results.standard_errors.at[name, metric.name] * metric.factor
        seeds = results.seeds.loc[name, metric.name] * metric.factor
        axis.plot(seeds, [position] * len(seeds), ".", color="0.6", markersize=3, zorder=1)
    if metric.name in DELTA_M:
        axis.barh(position, mean, height=0.6, color=style.color, alpha=0.5)
    xerr = error if math.isfinite(error) else None
    axis.errorbar(mean, position, xerr=xerr, fmt=style.marker, color=style.color, markersize=4, capsize=2)


def draw_sensitivity(results: Results) -> "Figure":
    """The spread over weighting methods per architecture: one panel per metric, one point per method."""
    table = _by_weighting(results)
    methods, networks = (list(dict.fromkeys(table[name])) for name in ("weighting", "network"))
    metrics = [metric for metric in shown_metrics(results) if metric.higher is not None]
    colors = styles(methods)
    title = f"{results.heading}: spread over weighting methods, and its range"
    figure, axes, placed = panels(len(metrics), methods, title)
    for axis, metric in zip(axes, metrics, strict=True):
        for position, network in enumerate(networks):
            own = table[table["network"] == network]
            values = results.means.loc[own["group"], metric.name] * metric.factor
            axis.bar(position, values.max() - values.min(), 0.5, values.min(), color="0.88", zorder=1)
            for method, value in zip(own["weighting"], values, strict=True):
                shift = 0.4 * (methods.index(method) + 0.5) / len(methods) - 0.2  # so that equal values are seen
                axis.plot(position + shift, value, colors[method].marker, color=colors[method].color, markersize=4)
            text = f"{values.max() - values.min():.{metric.decimals}f}"
            axis.annotate(text, (position, values.max()), (0, 6), textcoords="offset points", ha="center", fontsize=6)
        axis.set_xticks(range(len(networks)), networks)
        axis.set_xlim(-0.6, len(networks) - 0.4)
        axis.margins(y=0.15)
        axis.use_sticky_edges = False  # else the bars end at the edge of the panel
        finish(axis, f"{metric.title} {metric.arrow}", "", legend=False)
    figure.legend(handles=legend_lines(colors, marker=True), **placed)
    return figure


def _by_weighting(results: Results) -> pd.DataFrame:
    """One row per group of the networks with several weighting methods.

    Raises:
        SkippedError: there are none.
    """
    groups = [group for group in results.groups if _WEIGHTING in group.fields]
    names = [name for name in results.short if not name.startswith(_WEIGHTING)]
    names = [name for name in names if len({group.fields.get(name) for group in groups}) > 1]
    rows = []
    for group in groups:
        texts = {results.short[name]: group.fields[name] for name in names if name in group.fields}
        lines = texts.values() if names == [_ARCHITECTURE] else (f"{name}={text}" for name, text in texts.items())
        rows.append({"network": "\n".join(lines), "weighting": group.fields[_WEIGHTING], "group": group.name})
    table = pd.DataFrame(rows, columns=["network", "weighting", "group"])
    table = table[table.groupby("network")["weighting"].transform("nunique") > 1]
    if table.empty:
        raise SkippedError("no architecture was trained with two weighting methods")
    return table


def draw_parameters(results: Results) -> "Figure":
    """Delta-m over the number of parameters, one point per group."""
    if PARAMETERS not in results.means:
        raise SkippedError("parameters were not counted; add --parameters")
    if DELTA_M[0] not in results.means:
        raise SkippedError("there is no Delta-m; add --baseline")
    points = results.means[[PARAMETERS, DELTA_M[0]]].dropna()
    if points.empty:
        raise SkippedError("no group has both a number of parameters and Delta-m")
    colors = {name: style for name, style in group_styles(results).items() if name in points.index}
    figure, (axis,), placed = panels(1, list(colors), f"{results.heading}: Δm and size of the network")
    for name, style in colors.items():
        size, value = points.at[name, PARAMETERS] / 1e6, points.at[name, DELTA_M[0]]
        error = results.standard_errors.at[name, DELTA_M[0]]
        axis.errorbar(
            size, value, yerr=error if math.isfinite(error) else None, fmt=style.marker, color=style.color, capsize=2
        )
    axis.set_ylabel("Δm metrics (%) ↓", fontsize=8)
    axis.margins(0.1)
    finish(axis, "", "parameters (millions)", legend=False)
    figure.legend(handles=legend_lines(colors, marker=True), **placed)
    return figure
