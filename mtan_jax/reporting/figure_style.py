"""The style of all figures."""

import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # matplotlib takes seconds to import, so each function imports what it needs
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 12.0  # inches
DOTS_PER_INCH = 120


def finish(axis: "Axes", title: str, x_label: str = "step", *, legend: bool = True) -> None:
    """Adds the title, the label of the x axis, a grid and a legend."""
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(x_label, fontsize=8)
    axis.tick_params(which="both", labelsize=7)
    axis.grid(alpha=0.3)
    if legend:
        axis.legend(fontsize=7)


def save_png(figure: "Figure", path: pathlib.Path) -> None:
    """Writes a figure as PNG; creates the folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
