"""Writes the figures of a comparison."""

import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mtan_jax.compare import figure_curves, figure_values
from mtan_jax.compare.figure_parts import SkippedError
from mtan_jax.compare.results import Results
from mtan_jax.reporting.figure_style import save_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Name of the file -> the function that draws it.
FIGURES: Mapping[str, Callable[[Results], "Figure"]] = {
    "metrics": figure_values.draw_metrics,
    "curves": figure_curves.draw_curves,
    "sensitivity": figure_values.draw_sensitivity,
    "parameters": figure_values.draw_parameters,
    "weights": figure_curves.draw_weights,
    "cosines": figure_curves.draw_cosines,
}


def draw(results: Results, folder: pathlib.Path) -> list[str]:
    """Writes each figure that the runs have data for.

    Args:
        results: of the comparison.
        folder: created if it is missing.

    Returns:
        One line per figure, with its path or the reason why it was skipped.
    """
    lines = []
    for name, draw_one in FIGURES.items():
        try:
            figure = draw_one(results)
        except SkippedError as error:
            lines.append(f"figure {name} skipped: {error}")
            continue
        path = folder / f"{name}.png"
        save_png(figure, path)
        lines.append(f"figure {path}")
    return lines
