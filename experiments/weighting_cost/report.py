"""Writes the tables of README.md and the figure from results.json.

    python experiments/weighting_cost/report.py [folder of results.json]

replaces the text between the two lines of `MARKS` in README.md, and the figure.
"""

import json
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from check import OTHER, PASSES, bar, broken, methods_of, quartiles, ratios, records_of, shares_of_bar
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mtan_jax.weighting import BALANCERS, GRADIENT_METHODS

MARKS = ("<!-- from results.json -->", "<!-- end -->")
TIME = "wall_ms"  # the time in the figure
WIDEST = 8  # bars are cut off here, with their values at the edge
OURS, THEIRS = "tab:blue", "tab:orange"


def write(results: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Writes the figure and the tables into a folder; creates README.md if missing."""
    figure(results).savefig(folder / "weighting_cost.png")
    readme = folder / "README.md"
    text = readme.read_text() if readme.exists() else "\n".join(MARKS)
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    readme.write_text(f"{before}{MARKS[0]}\n\n{tables(results)}\n\n{MARKS[1]}{after}")


def figure(results: Mapping[str, Any]) -> Figure:
    """Draws step times relative to equal weighting, ours and LibMTL's, with the bars for ours."""
    ours, theirs, tasks = records_of(results, "ours"), records_of(results, "LibMTL"), results["num_tasks"]
    names = in_order(methods_of(ours))
    drawing = Figure(figsize=(10, 1.5 + 0.3 * len(names)), dpi=100, layout="constrained")
    axes = drawing.subplots()
    for row, name in enumerate(names):
        pair = [(ours[name], OURS, -0.2)]
        if name in theirs:
            pair.append((theirs[name], THEIRS, 0.2))
        for record, colour, offset in pair:
            low, middle, high = quartiles(ratios(record, TIME))
            place = row + (offset if len(pair) == 2 else 0)
            axes.barh(place, middle, height=0.36, color=colour)
            axes.hlines(place, low, high, color="black", linewidth=1)
            if middle > WIDEST:
                axes.text(WIDEST, place, f"{middle:.0f} ", color="white", ha="right", va="center", fontsize=8)
        limit = bar_of(results, name)
        axes.vlines(limit, row - 0.45, row + 0.45, color="tab:red", linewidth=1.5)
    handles = [Patch(color=OURS, label="mtan_jax")]
    if theirs:
        handles.append(Patch(color=THEIRS, label="LibMTL, relative to its own equal weighting"))
    handles += [
        Line2D([], [], color="tab:red", label="what mtan_jax may take"),
        Line2D([], [], color="black", linewidth=1, label="quartiles over rounds"),
    ]
    axes.axvline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(names)), labels=names)
    shown = [records[name] for records in (ours, theirs) for name in names if name in records]
    reach = max(quartiles(ratios(record, TIME))[2] for record in shown)
    reach = max(reach, *(bar_of(results, name) for name in names))
    axes.set(
        xlim=(0, min(1.05 * reach, WIDEST)),
        ylim=(len(names) - 0.4, -0.6),
        xlabel="wall time of a training step, relative to equal weighting",
    )
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    drawing.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    height, width = results["image_size"]
    drawing.suptitle(
        f"Cost of weighting: SegNet-MTAN, width {results['width']}, {tasks} tasks, {height}x{width} pixels, "
        f"{results['rows']} images"
    )
    return drawing


def bar_of(results: Mapping[str, Any], name: str) -> float:
    """Returns the bar of a method's step, relative to equal weighting."""
    ours = records_of(results, "ours")
    parts = (statistics.median(ratios(ours[part], TIME)) for part in ("losses", "optimizer"))
    return bar(name, results["num_tasks"], *parts)


def in_order(names: Sequence[str]) -> list[str]:
    """Sorts names: balancers, then methods that combine gradients, then others."""

    def kind(name: str) -> tuple[int, str]:
        method = name.split(",")[0]
        return (0 if method in BALANCERS else 1 if method in GRADIENT_METHODS else 2, name)

    return sorted(names, key=kind)


def tables(results: Mapping[str, Any]) -> str:
    """Returns all tables as Markdown."""
    ours, theirs = records_of(results, "ours"), records_of(results, "LibMTL")
    parts = [
        setup(results),
        "![Step times relative to equal weighting](weighting_cost.png)",
        "## Units",
        units(results),
    ]
    parts += ["## Ours", our_table(results, ours)]
    if results["skipped"]:
        parts.append("Left out: " + "; ".join(f"{name} ({why})" for name, why in results["skipped"].items()) + ".")
    not_finite = [name for name, record in ours.items() if not record["finite"]]
    if not_finite:
        parts.append(f"Not finite after the last step: {', '.join(not_finite)}.")
    parts += ["## More by definition", definition_table(results, ours)]
    if theirs:
        parts += ["## Ours and LibMTL's", their_table(ours, theirs)]
    parts += ["## Above the bars", "\n".join(f"- {line}" for line in broken(results)) or "None."]
    return "\n\n".join(parts)


def setup(results: Mapping[str, Any]) -> str:
    """Describes the measurement: versions, hardware, size, duration."""
    loads = [record["load_average"] for record in records_of(results, "ours").values()]
    height, width = results["image_size"]
    text = (
        f"Commit {results['commit']}, jax {results['jax']}, Python {results['python']}, {results['cores']} CPU cores; "
        f"width {results['width']}, {height}x{width} pixels, {results['rows']} images, {results['num_tasks']} tasks; "
        f"{results['rounds']} rounds, {results['minutes']} minutes, load average {min(loads)} to {max(loads)} while "
        "compiling."
    )
    if results["libmtl"]:
        theirs = results["libmtl"]
        text += (
            f" PyTorch {theirs['torch']} with {theirs['threads']} threads. Before the first step the losses of both "
            f"networks differed by {results['losses_differ_by']:.0e} of their size at most."
        )
    return text


def units(results: Mapping[str, Any]) -> str:
    """Returns the table of F, B and U."""
    rows = [["", "wall, ms", "CPU, ms", "GFLOP", "GB accessed"]]
    ours, theirs = records_of(results, "ours"), records_of(results, "LibMTL")
    for records, whose in ((ours, ""), (theirs, ", LibMTL")):
        if not records:
            continue
        base, losses = units_of(records["base"]), units_of(records["losses"])
        optimizer = units_of(records["optimizer"])
        backward = [b - f - u for b, f, u in zip(base, losses, optimizer, strict=True)]
        rows += [
            [f"step, equal weighting{whose}", *as_text(base)],
            [f"F: forward pass, losses alone{whose}", *as_text(losses)],
            [f"U: the optimiser alone{whose}", *as_text(optimizer)],
            [f"B: a backward pass, the rest{whose}", *as_text(backward)],
        ]
    return markdown(rows)


def units_of(record: Mapping[str, Any]) -> list[float]:
    """Returns the median times, and counts in billions if there are any."""
    times = [statistics.median(record[key]) for key in ("wall_ms", "cpu_ms")]
    return times + [record[key] / 1e9 for key in ("flops", "bytes_accessed") if key in record]


def as_text(values: Sequence[float]) -> list[str]:
    """Formats times and counts; LibMTL has no counts."""
    return [f"{value:.0f}" for value in values[:2]] + ([f"{value:.2f}" for value in values[2:]] or ["", ""])


def our_table(results: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Returns our table: one row per method, relative to equal weighting."""
    head = ["method", "wall time", "CPU time", "of its bar, wall", "of its bar, CPU", "FLOP", "bytes accessed"]
    head += ["temporary memory", "memory held", "state, MB", "compile, CPU s"]
    rows, base = [head], ours["base"]
    for name in in_order(methods_of(ours)):
        record = ours[name]
        keys = ("flops", "bytes_accessed", "temp_bytes", "held_bytes")
        counts = [f"{record[key] / base[key]:.3f}" for key in keys]
        if "one by one" in name:
            counts[:2] = ["", ""]  # a loop, whose body counts once
        bars = [quartiles(shares_of_bar(ours, name, key, results["num_tasks"])) for key in ("wall_ms", "cpu_ms")]
        rows.append(
            [name, *(spread(ratios(record, key)) for key in ("wall_ms", "cpu_ms"))]
            + [f"{middle:.2f}" for _, middle, _ in bars]
            + counts
            + [f"{record['opt_state_bytes'] / 1e6:.1f}", f"{record['lower_cpu_s'] + record['compile_cpu_s']:.0f}"]
        )
    return markdown(rows)


def definition_table(results: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Returns the table of the measured methods of `PASSES`."""
    rows = [["method", "passes", "wall time", "that of the passes", "why"]]
    for name, (forward, backward, why) in PASSES.items():
        if name in ours:
            expected = bar_of(results, name) / OTHER
            counted = f"{forward} F + {backward} B + U"
            rows.append([name, counted, spread(ratios(ours[name], TIME)), f"{expected:.2f}", why])
    return markdown(rows) if len(rows) > 1 else "None of these was measured."


def their_table(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Returns the comparison: one row per common method, relative to equal weighting of the same library."""
    rows = [
        [
            "method",
            "LibMTL's name",
            "wall time, ours",
            "LibMTL",
            "CPU time, ours",
            "LibMTL",
            "memory held, ours",
            "LibMTL",
        ]
    ]
    for name in in_order(methods_of(theirs)):
        pair = (ours[name], theirs[name])
        times = [spread(ratios(record, key)) for key in ("wall_ms", "cpu_ms") for record in pair]
        bases = (ours["base"], theirs["base"])
        held = [f"{record['held_bytes'] / base['held_bytes']:.2f}" for record, base in zip(pair, bases, strict=True)]
        rows.append([name, theirs[name]["method"], *times, *held])
    return markdown(rows)


def spread(values: Sequence[float]) -> str:
    """Formats median and quartiles."""
    low, middle, high = quartiles(values)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Formats rows as a Markdown table."""
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body))


if __name__ == "__main__":
    here = pathlib.Path(*sys.argv[1:2] or [pathlib.Path(__file__).parent])
    write(json.loads((here / "results.json").read_text()), here)
