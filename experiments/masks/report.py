"""Writes the tables of docs/masks.md from the stored results.

    python experiments/masks/report.py

replaces the text between the marks of each table.
"""

import json
import pathlib
import re
from typing import Any

FOLDER = pathlib.Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "masks.md"
METRICS = ("semantic/miou", "depth/abs_error", "normal/mean")
MASKS = {
    "learned": "learned",
    "mean": "each channel's mean over all pixels and images",
    "swapped": "of the next task",
    "half": "1/2 everywhere",
}


def main() -> None:
    """Replaces the tables of every dataset that has results."""
    text = PAGE.read_text()
    for path in sorted((FOLDER / "results").glob("*.json")):
        results = json.loads(path.read_text())
        for name, table in (("statistics", statistics(results)), ("metrics", metrics(results))):
            mark = f"<!-- {path.stem}: {name} -->"
            pattern = re.compile(f"{re.escape(mark)}\n.*?<!-- end -->", re.DOTALL)
            text = pattern.sub(lambda _, new=f"{mark}\n\n{table}\n\n<!-- end -->": new, text)
    PAGE.write_text(text)


def statistics(results: dict[str, Any]) -> str:
    """One row per stage: the mean over tasks of each statistic, trained (untrained)."""
    names = {"from_half": "from 1/2", "over_pixels": "over pixels", "between_tasks": "between tasks"}
    lines = [f"| stage | {' | '.join(names.values())} |", "|---" * (1 + len(names)) + "|"]
    for stage, trained in results["trained"].items():
        untrained = results["untrained"][stage]
        cells = [f"{mean(trained[name]):.3f} ({mean(untrained[name]):.3f})" for name in names]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    return "\n".join(lines)


def metrics(results: dict[str, Any]) -> str:
    """One row per kind of masks."""
    lines = ["| masks | mean IoU | depth, abs. error | normals, mean error (degrees) |", "|---|---|---|---|"]
    for kind, label in MASKS.items():
        found = results["metrics"][kind]
        cells = (f"{found[name]:.{digits}f}" for name, digits in zip(METRICS, (3, 4, 1), strict=True))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def mean(value: float | list[float]) -> float:
    """The mean of a list; a number is its own mean."""
    return sum(value) / len(value) if isinstance(value, list) else value


if __name__ == "__main__":
    main()
