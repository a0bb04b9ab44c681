"""Writes the tables of README.md and the figures from the stored results.

    python experiments/architectures/report.py

replaces the text between the two lines of `MARKS` in README.md.
"""

import pathlib
from collections.abc import Sequence

import pandas as pd
from grid import get_runs

from mtan_jax.compare.comparison import Comparison, compare_runs

FOLDER = pathlib.Path(__file__).parent
MARKS = ("<!-- from results -->", "<!-- end -->")
COLUMNS = ("semantic/miou", "depth/abs_error", "normal/mean", "delta_m/metrics", "delta_m/tasks", "mean_rank")
GRIDS = {
    "streets": "Streets: architectures and weightings",
    "rooms": "Rooms: architectures and weightings",
    "streets_weightings": "Streets: 12 weighting methods",
    "streets_fixed": "Streets: 10 settings of constant weights",
}


def main() -> None:
    """Writes the tables and the figures."""
    sections = []
    for grid, title in GRIDS.items():
        found = stored(grid)
        sections.append(f"## {title}\n\n{len(found)} of {len(get_runs(grid))} runs are stored.")
        if not found:
            continue
        comparison = compare(grid, found)
        sections.append(comparison.to_text())
        if grid in ("streets", "rooms"):
            sections.append(sensitivity(comparison))
        comparison.draw(FOLDER / "figures" / grid)
    readme = FOLDER / "README.md"
    before, _, rest = readme.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    readme.write_text(f"{before}{MARKS[0]}\n\n" + "\n\n".join(sections) + f"\n\n{MARKS[1]}{after}")


def stored(grid: str) -> list[pathlib.Path]:
    """The folders of the stored runs of a grid, in its order."""
    folders = (FOLDER / "results" / grid / str(run.name) for run in get_runs(grid))
    return [folder for folder in folders if folder.is_dir()]


def compare(grid: str, found: Sequence[pathlib.Path]) -> Comparison:
    """The runs of a grid beside the single-task networks of the same dataset and, for more weightings, the first three.

    Raises:
        ComparisonError: the results are damaged.
    """
    dataset, _, study = grid.partition("_")
    main_runs = stored(dataset) if study else []
    kept = ["single-", *(("mtan-", "split-") if study == "weightings" else ())]
    others = [folder for folder in main_runs if folder.name.startswith(tuple(kept))]
    baseline = "arch=single" if any(path.name.startswith("single-") for path in [*others, *found]) else None
    columns = [name for name in COLUMNS if baseline or not name.startswith(("delta_m/", "mean_rank"))]
    return compare_runs([*others, *found], baseline=baseline, metrics=columns, parameters=True)


def sensitivity(comparison: Comparison) -> str:
    """For each architecture, the range over weightings of the mean over seeds, in percent of the mean: Markdown."""
    means = comparison.means.filter(items=["semantic/miou", "depth/abs_error", "normal/mean"])
    means["arch"] = [name.split()[0].removeprefix("arch=") for name in means.index]
    groups = means.groupby("arch", sort=False)
    spread = (groups.max() - groups.min()) / groups.mean().abs() * 100
    spread = spread[groups.size() > 1]
    if spread.empty:
        return ""
    spread["mean"] = spread.mean(axis=1)
    table = pd.DataFrame(spread).map(lambda value: f"{value:.1f}")
    lines = [f"| architecture | {' | '.join(table.columns)} |", "|" + "---|" * (len(table.columns) + 1)]
    lines += [f"| {name} | {' | '.join(row)} |" for name, row in zip(table.index, table.to_numpy(), strict=True)]
    title = "Sensitivity: range over equal, uncertainty and DWA of the mean over seeds, in percent of their mean"
    return f"**{title}**\n\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
