"""Draws the figures and prints the tables of README.md from results.json.

python experiments/toy/report.py
"""

import json
import math
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from claims import CLAIMS, REACHED
from landscape import PROBLEMS, unscaled_losses
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FIRST = ("equal", "mgda", "pcgrad", "cagrad", "nash_mtl")  # the methods of the papers
COLUMNS = 6
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")


def figures(results: dict[str, Any]) -> dict[str, Figure]:
    """Returns figures by file name: CAGrad's problem in the plane, Nash-MTL's in loss space, as in the papers."""
    return {
        "cagrad": _panels(
            results,
            "cagrad",
            _in_the_plane,
            "CAGrad's problem in the plane, contours of the mean loss; how many starts end on the front",
        ),
        "nash": _panels(
            results,
            "nash",
            _in_losses,
            "Nash-MTL's problem, second loss over first (times 0.1); how many starts end on the front",
        ),
    }


def tables(results: dict[str, Any]) -> str:
    """Returns Markdown: verdicts of the claims, then the end points of each method."""
    parts = []
    for source, claims in CLAIMS.items():
        rows = [["claim", "holds", "numbers"]]
        for claim in claims:
            holds, numbers = claim(results)
            rows.append([(claim.__doc__ or "").strip(), "yes" if holds else "**no**", numbers])
        parts.append(f"{source}\n\n{_markdown(rows)}")
    for key, problem in PROBLEMS.items():
        rows = [["method", *(f"({x:g}, {y:g})" for x, y in problem.starts), "on the front"]]
        methods = results["problems"][key]["methods"]
        for name in _ordered(methods):
            cells = [
                f"{r['share']:.2f}" if r["distance"] < REACHED else f"off {r['distance']:.2f}" for r in methods[name]
            ]
            rows.append([name, *cells, _reached(methods[name])])
        parts.append(f"{problem.title}\n\n{_markdown(rows)}")
    return "\n\n".join(parts)


def _panels(results: dict[str, Any], key: str, draw: Callable[[Axes, Any], None], title: str) -> Figure:
    problem = results["problems"][key]
    names = _ordered(problem["methods"])
    rows = math.ceil(len(names) / COLUMNS)
    drawing = Figure(figsize=(2.3 * COLUMNS, 2.35 * rows + 0.8), dpi=100, layout="constrained")
    grid = drawing.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for i, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        draw(axes, problem)
        for run, colour in zip(problem["methods"][name], COLOURS, strict=True):
            _draw_run(axes, run, colour, slice(0, 2) if key == "cagrad" else slice(2, 4))
        axes.set_title(f"{name}  {_reached(problem['methods'][name])}", fontsize=11)
        axes.tick_params(labelsize=8, labelbottom=i + COLUMNS >= len(names))
    drawing.suptitle(title, fontsize=13)
    drawing.legend(*_key(grid.flat[0]), loc="outside lower center", ncols=5, frameon=False)
    return drawing


def _draw_run(axes: Axes, run: dict[str, Any], colour: str, columns: slice) -> None:
    way = np.array(run["trajectory"])[:, columns]
    on_front = run["distance"] < REACHED
    axes.plot(*way.T, color=colour, linewidth=1.1, alpha=0.9 if on_front else 0.6, zorder=3)
    axes.plot(*way[0], "o", color="black", markersize=4.5, zorder=4)
    look = {"marker": "D" if on_front else "X", "markersize": 6 if on_front else 8, "zorder": 5}
    axes.plot(*way[-1], color=colour, markeredgecolor="black", markeredgewidth=0.7, linestyle="none", **look)


def _in_the_plane(axes: Axes, problem: dict[str, Any]) -> None:
    x, y = np.meshgrid(np.linspace(-11, 11, 221), np.linspace(-11, 11, 221))
    mean = jax.vmap(unscaled_losses)(np.stack([x.ravel(), y.ravel()], 1)).mean(1).reshape(x.shape)
    axes.contour(
        x, y, mean, levels=np.arange(-15, 8, 2.5), cmap="viridis", vmax=12, linewidths=0.7, alpha=0.6, zorder=1
    )
    axes.plot(*np.array(problem["front"])[:, :2].T, color="0.6", linewidth=5, solid_capstyle="butt", zorder=2)
    axes.plot(
        0, np.array(problem["front"])[len(problem["front"]) // 2, 1], "*", color="black", markersize=9, zorder=2.5
    )
    axes.set(xlim=(-11, 11), ylim=(-11, 11), aspect="equal")


def _in_losses(axes: Axes, problem: dict[str, Any]) -> None:
    axes.plot(*np.array(problem["front"])[:, 2:].T, color="0.6", linewidth=5, solid_capstyle="butt", zorder=2)
    axes.set(xlim=(-2.15, 1.05), ylim=(-21.5, 9.5))


def _key(axes: Axes) -> tuple[list[Any], list[str]]:
    looks = {
        "start": {"marker": "o", "color": "black"},
        "end, on the front": {"marker": "D", "color": "white", "markeredgecolor": "black"},
        "end, off the front": {"marker": "X", "color": "white", "markeredgecolor": "black", "markersize": 8},
    }
    handles = [axes.plot([], [], linestyle="none", **look)[0] for look in looks.values()]
    handles.append(axes.plot([], [], color="0.6", linewidth=5)[0])
    return handles, [*looks, "Pareto front"]


def _cell(run: dict[str, Any]) -> str:
    return f"{run['share']:.2f}" if run["distance"] < REACHED else f"off {run['distance']:.2f}"


def _reached(runs: Sequence[dict[str, Any]]) -> str:
    return f"{sum(run['distance'] < REACHED for run in runs)}/{len(runs)}"


def _ordered(methods: dict[str, Any]) -> list[str]:
    return [name for name in FIRST if name in methods] + sorted(set(methods) - set(FIRST))


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body))


if __name__ == "__main__":
    folder = pathlib.Path(__file__).parent
    stored = json.loads((folder / "results.json").read_text())
    for file, drawing in figures(stored).items():
        drawing.savefig(folder / f"{file}.png")
    sys.stdout.write(tables(stored) + "\n")
