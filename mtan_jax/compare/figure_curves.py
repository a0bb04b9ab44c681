"""Curves over training steps: metrics, task weights and cosines of task gradients."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from mtan_jax.compare.figure_parts import SkippedError, draw_band, group_styles, legend_lines, panels
from mtan_jax.compare.groups import Group
from mtan_jax.compare.results import Results
from mtan_jax.compare.tables import shown_metrics
from mtan_jax.reporting.figure_style import finish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MANY = 8  # groups whose bands can be told apart
_COSINE = "telemetry/cosine/"
_WEIGHTS = "weights/"


def draw_curves(results: Results) -> "Figure":
    """The shown metrics over steps: mean over seeds, with a band of one standard error."""
    frames = {}
    for metric in shown_metrics(results):
        found = {group.name: _over_steps([group], metric.name, results.split) for group in results.groups}
        frames[metric] = {name: frame * metric.factor for name, frame in found.items() if not frame.empty}
    frames = {metric: found for metric, found in frames.items() if found}
    if all(len(frame) < 2 for found in frames.values() for frame in found.values()):
        raise SkippedError(f"no run has two evaluations on {results.split}")
    titles = {f"{metric.title} {metric.arrow}".strip(): found for metric, found in frames.items()}
    return _draw(results, titles, f"Metrics on {results.split}: mean and standard error over seeds")


def draw_weights(results: Results) -> "Figure":
    """The task weights over steps, per task; of the groups with several tasks."""
    groups = [group for group in results.groups if any(len(run.tasks) > 1 for run in group.runs)]
    return _draw_logged(results, groups, _WEIGHTS, "Task weights")


def draw_cosines(results: Results) -> "Figure":
    """The cosines of task gradients over steps, per pair of tasks; of the groups that measured them."""
    return _draw_logged(results, results.groups, _COSINE, "Cosine of task gradients")


def _draw_logged(results: Results, groups: Iterable[Group], prefix: str, title: str) -> "Figure":
    groups = list(groups)
    rows = (row for group in groups for run in group.runs for row in run.rows_of("train"))
    names = list(dict.fromkeys(name for row in rows for name in row if name.startswith(prefix)))
    frames = {}
    for name in names:
        found = {group.name: _over_steps([group], name, "train") for group in groups}
        frames[name.removeprefix(prefix)] = {each: frame for each, frame in found.items() if not frame.empty}
    if not any(frames.values()):
        hint = "; add telemetry to config.weighting to measure it" if prefix == _COSINE else ""
        raise SkippedError(f"no run logged {prefix}...{hint}")
    return _draw(results, frames, f"{title}: mean and standard error over seeds")


def _draw(results: Results, frames: dict[str, dict[str, pd.DataFrame]], title: str) -> "Figure":
    styles = group_styles(results)
    used = {name: style for name, style in styles.items() if any(name in found for found in frames.values())}
    figure, axes, placed = panels(len(frames), list(used), title)
    for axis, (name, found) in zip(axes, frames.items(), strict=True):
        for group, frame in found.items():
            draw_band(axis, frame, styles[group], alpha=0.15 if len(used) <= MANY else 0.04)
        finish(axis, name, legend=False)
    figure.legend(handles=legend_lines(used), **placed)
    return figure


def _over_steps(groups: Iterable[Group], name: str, split: str) -> pd.DataFrame:
    """The values of a metric: one row per step, one column per run that has it."""
    columns = {}
    for group in groups:
        for run in group.runs:
            points = {row["step"]: row[name] for row in run.rows_of(split) if name in row}
            if points:
                columns[run.name] = pd.Series(points)
    return pd.DataFrame(columns).sort_index().dropna(how="all")
