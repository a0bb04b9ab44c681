"""Writes README.md's table and the figure from results.json.

    python experiments/mini_decathlon/report.py

replaces the text between the two lines of `MARKS` in README.md, and the figure.
"""

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from mtan_jax.tasks.decathlon_score import decathlon_score

FOLDER = pathlib.Path(__file__).parent
MARKS = ("<!-- from results.json -->", "<!-- end -->")
BASELINE = "finetuning"  # of the challenge's score
BASE = "base"

Record = Mapping[str, Any]


def main() -> None:
    """Writes the table and the figure."""
    records = json.loads((FOLDER / "results.json").read_text())
    readme = FOLDER / "README.md"
    before, _, rest = readme.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    readme.write_text(f"{before}{MARKS[0]}\n\n{table(records)}\n\n{MARKS[1]}{after}")
    figure(records).savefig(FOLDER / "mini_decathlon.png")


def by_method(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Groups the records by method, one record per seed."""
    names = dict.fromkeys(record["method"] for record in records if record["method"] != BASE)
    return {name: [record for record in records if record["method"] == name] for name in names}


def mean_accuracy(record: Record, when: str = "accuracy") -> float:
    """Returns the mean accuracy over the sets; at the start of training with `when="initial"`."""
    return statistics.mean(record[when].values())


def scores(records: Sequence[Record]) -> dict[str, list[float]]:
    """Returns each method's scores, one per seed; the baseline is the mean over the seeds of finetuning."""
    methods = by_method(records)
    sets = methods[BASELINE][0]["accuracy"]
    errors = {name: 1 - statistics.mean(r["accuracy"][name] for r in methods[BASELINE]) for name in sets}
    return {name: [decathlon_score(r["accuracy"], errors) for r in found] for name, found in methods.items()}


def table(records: Sequence[Record]) -> str:
    """Returns Markdown: parameters, accuracies in percent, their mean, and the score, averaged over seeds."""
    methods, points = by_method(records), scores(records)
    sets = list(next(iter(methods.values()))[0]["accuracy"])
    one = next(record for record in records if record["method"] == BASE)["parameters"]["kept"]
    lines = [f"| method | #P. | {' | '.join(sets)} | mean | score | minutes |", "|" + "---|" * (len(sets) + 5)]
    for name, found in methods.items():
        cells = [f"{found[0]['parameters']['kept'] / one:.2f}"]
        cells += [f"{100 * statistics.mean(r['accuracy'][s] for r in found):.1f}" for s in sets]
        cells += [spread([100 * mean_accuracy(r) for r in found], 1), spread(points[name], 0)]
        cells.append(f"{statistics.mean(r['minutes'] for r in found):.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    seeds, minutes = len(found), sum(record["minutes"] for record in records)
    lines += ["", f"Means over {seeds} seeds, with the standard deviation over them; {minutes:.0f} minutes in all."]
    starts = {name: found for name, found in methods.items() if "initial" in found[0]}
    initial = {name: spread([100 * mean_accuracy(r, "initial") for r in found], 1) for name, found in starts.items()}
    lines.append(f"Mean accuracy before training: {', '.join(f'{name} {value}' for name, value in initial.items())}.")
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int) -> str:
    """Formats mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def figure(records: Sequence[Record]) -> Figure:
    """Plots mean accuracy over parameters, one point per seed."""
    one = next(record for record in records if record["method"] == BASE)["parameters"]["kept"]
    drawing = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = drawing.subplots()
    for i, (name, found) in enumerate(by_method(records).items()):
        ratio = found[0]["parameters"]["kept"] / one
        heights = [100 * mean_accuracy(record) for record in found]
        axes.scatter([ratio] * len(heights), heights, color=f"C{i}", label=name)
    axes.set(
        xlabel="parameters without heads, relative to one network",
        ylabel="mean accuracy over the sets, %",
        xscale="log",
        title="mini_decathlon: one point per seed",
    )
    ticks = [1, 1.5, 2, 3, 6]
    axes.set_xticks(ticks, labels=map(str, ticks), minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return drawing


if __name__ == "__main__":
    main()
