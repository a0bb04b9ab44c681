"""Draws fronts.png and prints the table of README.md from results.json.

python experiments/pareto_fronts/draw_fronts.py
"""

import json
import pathlib
import sys
from typing import Any

import numpy as np
from front_problems import PROBLEMS
from front_training import METHODS
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FOLLOWS_PREFERENCES = ("epo", "stch")


def figure(results: dict[str, Any]) -> Figure:
    """One row of panels per problem, one panel per method: the known front, the members, and the preferences' rays."""
    drawing = Figure(figsize=(11, 6.1), dpi=100, layout="constrained")
    grid = drawing.subplots(len(PROBLEMS), len(METHODS), sharex="row", sharey="row")
    for row, (key, problem) in zip(grid, PROBLEMS.items(), strict=True):
        front = problem.front(np.linspace(0, 1, 201))
        for axes, name in zip(row, METHODS, strict=True):
            _panel(
                axes, front, np.array(results["preferences"]), np.array(results["problems"][key][name]["losses"]), name
            )
            axes.set_xlabel("first loss", fontsize=10)
        row[0].set_ylabel(f"{problem.title}\nsecond loss", fontsize=10)
    handles, labels = grid[0][0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    return drawing


def _panel(axes: Axes, front: np.ndarray, preferences: np.ndarray, losses: np.ndarray, name: str) -> None:
    limit = 1.08 * front.max()
    if name in FOLLOWS_PREFERENCES:
        for i, ray in enumerate(1 / preferences):
            label = "losses inversely proportional to the preferences" if i == 0 else None
            axes.plot(
                *np.outer(ray / ray.max(), [0, 2 * limit]), color="tab:blue", linewidth=0.6, alpha=0.6, label=label
            )
    axes.plot(*front.T, color="0.7", linewidth=5, solid_capstyle="butt", label="known front")
    axes.plot(*losses.T, "o", color="tab:red", markeredgecolor="black", markersize=6, label="members", zorder=3)
    low = -0.04 * limit
    axes.set(xlim=(low, limit), ylim=(low, limit), box_aspect=1)
    axes.set_title(name, fontsize=12)
    axes.tick_params(labelsize=9)


def table(results: dict[str, Any]) -> str:
    """Markdown: per problem and method, the largest distance from the front and from the preferences."""
    rows = [
        "| problem | method | distance | distance, float32 | ratio | ratio, float32 | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, methods in results["problems"].items():
        for name, found in methods.items():
            follows = name in FOLLOWS_PREFERENCES
            ratios = [f"{found[kind]:.3f}" if follows else "" for kind in ("ratio", "ratio_float32")]
            rows.append(
                f"| {key} | `{name}` | {found['distance']:.1e} | {found['distance_float32']:.1e} | {ratios[0]} | "
                f"{ratios[1]} | {found['seconds']:.0f} |"
            )
    return "\n".join(rows)


if __name__ == "__main__":
    folder = pathlib.Path(__file__).parent
    stored = json.loads((folder / "results.json").read_text())
    figure(stored).savefig(folder / "fronts.png")
    sys.stdout.write(table(stored) + "\n")
