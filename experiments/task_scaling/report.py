"""Draws the figure and prints the tables of README.md from results.json.

python experiments/task_scaling/report.py
"""

import json
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

# (masks, heads) -> label, colour, line style, marker
LOOKS = {
    ("batched", "unrolled"): ("masks batched, heads unrolled", "tab:blue", "-", "o"),
    ("unrolled", "unrolled"): ("masks unrolled, heads unrolled", "tab:orange", "-", "s"),
    ("batched", "products"): ("masks batched, heads batched (nine products)", "tab:blue", "--", "^"),
    ("unrolled", "products"): ("masks unrolled, heads batched (nine products)", "tab:orange", "--", "v"),
    ("batched", "grouped"): ("masks batched, heads batched (grouped conv)", "tab:green", ":", "D"),
    (None, None): ("Adam alone", "grey", "-", "."),
}
PANELS = {
    "Step, CPU time of all threads (ms)": lambda r: r["step_cpu_ms"],
    "Trace, lower and compile, CPU time (s)": lambda r: r["lower_cpu_s"] + r["compile_cpu_s"],
    "Instructions in the optimised HLO (thousands)": lambda r: r["instructions"] / 1e3,
}
BASE = ("batched", "unrolled")
COLUMNS = {
    "trace + lower, s (CPU s)": lambda r: f"{r['lower_wall_s']:.1f} ({r['lower_cpu_s']:.1f})",
    "compile, s (CPU s)": lambda r: f"{r['compile_wall_s']:.0f} ({r['compile_cpu_s']:.0f})",
    "HLO instructions, entry": lambda r: f"{r['instructions']:,}, {r['entry_instructions']:,}",
    "GFLOP": lambda r: f"{r['flops'] / 1e9:.2f}",
    "GB accessed": lambda r: f"{r['bytes_accessed'] / 1e9:.2f}",
    "temp MB": lambda r: f"{r['temp_bytes'] / 1e6:.0f}",
    "step, ms (CPU ms)": lambda r: f"{r['step_wall_ms']:.0f} ({r['step_cpu_ms']:.0f})",
}
RATIOS = {
    "trace + lower, CPU": lambda r: r["lower_cpu_s"],
    "compile, CPU": lambda r: r["compile_cpu_s"],
    "instructions": lambda r: r["instructions"],
    "entry instructions": lambda r: r["entry_instructions"],
    "temp memory": lambda r: r["temp_bytes"],
}


def figure(records: Sequence[dict[str, Any]]) -> Figure:
    """Draws four panels over the number of tasks, at the first size in the records."""
    first = _size(records[0])
    records = [record for record in records if _size(record) == first]
    counts = sorted({record["tasks"] for record in records})
    places = {(r["masks"], r["heads"], r["tasks"]): r for r in records}
    drawing = Figure(figsize=(12, 9), dpi=100, layout="constrained")
    relative, *panels = drawing.subplots(2, 2).flat
    for i, (variant, (label, colour, style, marker)) in enumerate(LOOKS.items()):
        look = {"label": label, "color": colour, "linestyle": style, "marker": marker, "markersize": 5}
        curve = [places[*variant, count] for count in counts]
        for axes, value in zip(panels, PANELS.values(), strict=True):
            axes.plot(counts, [value(record) for record in curve], **look)
        if variant[1] in ("unrolled", "products"):  # the others would hide the differences between these
            base = [places[*BASE, count] for count in counts]
            low, middle, high = zip(
                *map(_quartiles_of_ratio, curve, base, ["step_cpu_ms_all"] * len(base)), strict=True
            )
            bars = [
                [m - a for m, a in zip(middle, low, strict=True)],
                [b - m for m, b in zip(middle, high, strict=True)],
            ]
            apart = [count * 1.02 ** (i - 1.5) for count in counts]  # so that error bars do not overlap
            relative.errorbar(apart, middle, bars, **look, capsize=3, elinewidth=1)
    for axes, title in zip(panels, PANELS, strict=True):
        axes.set(title=title, yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    relative.set_title("Step, CPU time relative to masks batched, heads unrolled")
    for axes in (relative, *panels):
        axes.set(xlabel="number of tasks", xscale="log")
        axes.minorticks_off()
        axes.set_xticks(counts, labels=[str(count) for count in counts], minor=False)
        axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    width, (height, columns) = first
    drawing.suptitle(f"A training step of SegNet-MTAN, width {width}, {height}x{columns} pixels, 2 images")
    return drawing


def tables(records: Sequence[dict[str, Any]]) -> str:
    """Returns Markdown: the measurements, then the ratios unrolled / batched of masks and heads."""
    rows = [["tasks", "size", "masks", "heads", *COLUMNS]]
    for r in records:
        size = f"{r['width']}, {'x'.join(map(str, r['image_size']))}"
        name = [r["masks"], r["heads"]] if r["masks"] else ["Adam alone", ""]
        rows.append([str(r["tasks"]), size, *name, *(column(r) for column in COLUMNS.values())])
    parts = [_markdown(rows)]
    for title, above, below in (
        ("masks unrolled / batched (heads unrolled)", ("unrolled", "unrolled"), ("batched", "unrolled")),
        ("heads unrolled / nine products (masks batched)", ("batched", "unrolled"), ("batched", "products")),
        ("heads unrolled / grouped convolution (masks batched)", ("batched", "unrolled"), ("batched", "grouped")),
    ):
        rows = [["tasks, width", "step, wall", "step, CPU", *RATIOS]]
        places = {(r["tasks"], r["width"], r["masks"], r["heads"]): r for r in records}
        for tasks, width in dict.fromkeys((r["tasks"], r["width"]) for r in records):
            top, bottom = places[tasks, width, *above], places[tasks, width, *below]
            quartiles = [_quartiles_of_ratio(top, bottom, key) for key in ("step_wall_ms_all", "step_cpu_ms_all")]
            steps = [f"{middle:.2f} ({low:.2f} to {high:.2f})" for low, middle, high in quartiles]
            ratios = [f"{value(top) / value(bottom):.2f}" for value in RATIOS.values()]
            rows.append([f"{tasks}, {width}", *steps, *ratios])
        parts.append(f"{title}\n\n{_markdown(rows)}")
    return "\n\n".join(parts)


def _quartiles_of_ratio(top: dict[str, Any], bottom: dict[str, Any], key: str) -> list[float]:
    """Returns the quartiles of the ratio of two variants' steps of the same round, under similar load."""
    return statistics.quantiles([a / b for a, b in zip(top[key], bottom[key], strict=True)], n=4)


def _size(record: dict[str, Any]) -> tuple[float, tuple[int, ...]]:
    return record["width"], tuple(record["image_size"])


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body))


if __name__ == "__main__":
    folder = pathlib.Path(__file__).parent
    stored = json.loads((folder / "results.json").read_text())["records"]
    figure(stored).savefig(folder / "task_scaling.png")
    sys.stdout.write(tables(stored) + "\n")
