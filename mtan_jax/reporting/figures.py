"""Figures of predictions beside the ground truth, attention masks and training curves."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped

from mtan_jax.data.builder import DataInfo
from mtan_jax.reporting.figure_style import DOTS_PER_INCH, WIDTH, finish
from mtan_jax.reporting.metrics_file import Line, read_metrics
from mtan_jax.tasks import Task, rendering

if TYPE_CHECKING:  # matplotlib takes seconds to import, so each function imports what it needs
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

MASK_COLOURS = "viridis"


def panel(
    image: Float[np.ndarray, "h w 3"],
    predictions: Mapping[str, Float[np.ndarray, "h w _"]],
    targets: Mapping[str, Shaped[np.ndarray, "h w *_"]],
    tasks: Sequence[Task],
    data_info: DataInfo,
    masks: Mapping[str, Float[np.ndarray, "t _ _ _"]] | None = None,
) -> "Figure":
    """Draws one example: image, ground truth and prediction per task, legends, and attention masks.

    Args:
        image: pixels in 0..1.
        predictions: by task name.
        targets: by target name, for the targets that the example has labels of; empty without ground truth.
        tasks: tasks in the order of the columns and of the masks.
        data_info: classes, colors and units.
        masks: the masks of all tasks at each stage, by stage name; drawn as the mean over channels.

    Raises:
        ValueError: a task has no `picture`.
    """
    from matplotlib.figure import Figure

    aspect = image.shape[0] / image.shape[1]
    cell = WIDTH / (1 + len(tasks)) * aspect + 0.2
    rows = 2 if targets else 1
    heights = [rows * cell + _key_height(data_info)]
    if masks:
        heights.append(len(tasks) * (WIDTH / (len(masks) + 1) * aspect + 0.06) + 0.5)
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=DOTS_PER_INCH, layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_examples(parts[0], image, predictions, targets, tasks, data_info, [cell] * rows + [_key_height(data_info)])
    if masks:
        _draw_masks(parts[1], masks, tasks)
    return figure


def sheet(title: str, images: Sequence[Float[np.ndarray, "h w 3"]], lines: Sequence[Mapping[str, object]]) -> "Figure":
    """Draws images of one dataset with their predicted classes: green if correct, red with the true class if not.

    Args:
        title: title of the figure.
        images: pixels in 0..1.
        lines: one mapping per image with the class names "predicted" and "class"; "class" is None if unknown.
    """
    from matplotlib.figure import Figure

    columns = min(max(len(images), 1), 8)
    rows = max(math.ceil(len(images) / columns), 1)
    figure = Figure(figsize=(1.5 * columns, 1.75 * rows + 0.3), dpi=DOTS_PER_INCH, layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, image, line in zip(axes, images, lines, strict=False):
        truth, predicted = line["class"], str(line["predicted"])
        text = _short(predicted) if truth in (None, predicted) else f"{_short(predicted)}\nnot {_short(str(truth))}"
        _show(axis, image, "")
        colour = "black" if truth is None else "tab:green" if truth == predicted else "tab:red"
        axis.set_title(text, fontsize=7, color=colour)
    for axis in axes[len(images) :]:
        axis.remove()
    return figure


def _short(name: str, most: int = 20) -> str:
    """Keeps the end of a long name, so that it does not overlap the next one."""
    return name if len(name) <= most else "…" + name[1 - most :]


def curves(path: pathlib.Path) -> "Figure":
    """Plots the losses of each task on each split, and the task weights, against the step.

    Args:
        path: path of `metrics.jsonl`.

    Raises:
        ValueError: the file contains no losses yet.
    """
    from matplotlib.figure import Figure

    lines = read_metrics(path)
    names = list(dict.fromkeys(name for line in lines for name in line))
    losses = [name for name in names if name.endswith("/loss")]
    weights = [name for name in names if name.startswith("weights/")]
    if not losses:
        raise ValueError(f"{path} contains no losses yet; train for at least config.log_every")
    count = len(losses) + bool(weights)
    columns = min(count, 4)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(3.2 * columns, 2.6 * rows), dpi=DOTS_PER_INCH, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    splits = list(dict.fromkeys(line["split"] for line in lines))
    for i, (axis, name) in enumerate(zip(axes, losses, strict=False)):
        for split in splits:
            color, marker = (f"C{i}", "") if split == "train" else ("black", "o")
            _plot(axis, [line for line in lines if line["split"] == split], name, split, color, marker)
        finish(axis, name.replace("/", " "))
    if weights:
        for i, name in enumerate(weights):
            _plot(axes[count - 1], lines, name, name.removeprefix("weights/"), f"C{i}")
        finish(axes[count - 1], "task weights")
    return figure


def telemetry(path: pathlib.Path) -> "Figure | None":
    """Plots the measurements of `mtan_jax.weighting.telemetry` and the task weights against the step.

    Args:
        path: path of `metrics.jsonl`.

    Returns:
        The figure; None if the run had no telemetry.
    """
    from matplotlib.figure import Figure

    lines = [line for line in read_metrics(path) if "telemetry/conflicting_pairs" in line]
    if not lines:
        return None
    panels = {
        "cosine of task gradients": "telemetry/cosine/",
        "similarity of their magnitudes": "telemetry/magnitude_similarity/",
        "share of conflicting pairs": "telemetry/conflicting_pairs",
        "condition number of the Gram matrix": "telemetry/condition_number",
        "distance to Pareto stationarity": "telemetry/stationarity",
        "task weights": "weights/",
    }
    figure = Figure(figsize=(WIDTH, 5.6), dpi=DOTS_PER_INCH, layout="constrained")
    for axis, (title, prefix) in zip(figure.subplots(2, 3).flat, panels.items(), strict=True):
        for i, name in enumerate(name for name in lines[-1] if name.startswith(prefix)):
            _plot(axis, lines, name, name.removeprefix(prefix) or "all tasks", f"C{i}")
        if title.startswith("condition"):
            axis.set_yscale("log")
        finish(axis, title)
    return figure


def _draw_examples(
    part: "SubFigure",
    image: Float[np.ndarray, "h w 3"],
    predictions: Mapping[str, Float[np.ndarray, "h w _"]],
    targets: Mapping[str, Shaped[np.ndarray, "h w *_"]],
    tasks: Sequence[Task],
    data_info: DataInfo,
    heights: Sequence[float],
) -> None:
    grid = part.add_gridspec(len(heights), 1 + len(tasks), height_ratios=heights)
    _show(part.add_subplot(grid[0, 0]), np.clip(image, 0, 1), "image")
    for column, task in enumerate(tasks, start=1):
        if task.picture is None:
            raise ValueError(f"task {task.name!r} has no picture; panel draws dense tasks only")
        target, prediction = targets.get(task.target), predictions[task.name]
        if targets:
            axis = part.add_subplot(grid[0, column])
            if target is None:
                _show(axis, np.full((*image.shape[:2], 3), 255, np.uint8), f"{task.name}, not labelled")
            else:
                _show(axis, task.picture(target, data_info, target), f"{task.name}, ground truth")
        picture = task.picture(prediction, data_info, target)
        _show(part.add_subplot(grid[-2, column]), picture, f"{task.name}, prediction")
        _draw_key(part.add_subplot(grid[-1, column]), task, prediction if target is None else target, data_info)


def _draw_key(axis: "Axes", task: Task, array: Shaped[np.ndarray, "h w *_"], data_info: DataInfo) -> None:
    """Draws the legend of a column: class names, a depth scale or the axes of normals. Other targets have none."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Patch

    axis.axis("off")
    if task.target == "semantic":
        void = Patch(facecolor="black", label="void")
        patches = [
            Patch(facecolor=colour / 255, label=name)
            for name, colour in zip(data_info.classes, data_info.palette, strict=True)
        ]
        axis.legend(
            handles=[*patches, void],
            ncols=_key_columns(data_info),
            fontsize=7,
            handlelength=1,
            columnspacing=1,
            loc="upper center",
            borderaxespad=0,
            frameon=False,
        )
    elif task.target == "depth":
        thickness = 0.13 / _key_height(data_info)
        scale = ScalarMappable(Normalize(*rendering.depth_span(array)), rendering.depth_colours(data_info))
        bar = axis.figure.colorbar(
            scale, cax=axis.inset_axes((0.1, 1 - thickness, 0.8, thickness)), orientation="horizontal"
        )
        kind = "inverse depth" if data_info.inverse_depth else "depth"
        bar.set_label(f"{kind} in {data_info.depth_unit}; grey: undefined", fontsize=7)
        bar.ax.tick_params(labelsize=7)
    elif task.target == "normal":
        text = "x, y, z from -1 to 1 as red, green, blue\ngrey: undefined"
        axis.text(0.5, 1, text, fontsize=7, ha="center", va="top", transform=axis.transAxes)


def _key_columns(data_info: DataInfo) -> int:
    return 2 if len(data_info.classes) <= 8 else 3


def _key_height(data_info: DataInfo) -> float:
    """Height in inches of the lines of class names, including void, at 7 points."""
    return max(0.5, 0.16 * math.ceil((len(data_info.classes) + 1) / _key_columns(data_info)) + 0.1)


def _draw_masks(part: "SubFigure", masks: Mapping[str, Float[np.ndarray, "t _ _ _"]], tasks: Sequence[Task]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    part.suptitle("attention masks, mean over channels", fontsize=9)
    axes = part.subplots(len(tasks), len(masks), squeeze=False)
    for column, (stage, mask) in enumerate(masks.items()):
        for row, task in enumerate(tasks):
            axis = axes[row, column]
            axis.imshow(mask[row].astype(np.float32).mean(axis=-1), MASK_COLOURS, vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(stage, fontsize=7)
            if column == 0:
                axis.set_ylabel(task.name, fontsize=8)
    scale = ScalarMappable(Normalize(0, 1), MASK_COLOURS)
    part.colorbar(scale, ax=axes, fraction=0.02, pad=0.01).ax.tick_params(labelsize=7)


def _show(axis: "Axes", picture: Shaped[np.ndarray, "h w 3"], title: str) -> None:
    axis.imshow(picture, interpolation="nearest")
    axis.set_title(title, fontsize=8)
    axis.axis("off")


def _plot(axis: "Axes", lines: Sequence[Line], name: str, label: str, color: str, marker: str = "") -> None:
    points = [(line["step"], line[name]) for line in lines if name in line]
    if points:
        marker = marker or ("o" if len(points) == 1 else "")  # a line through one point would be invisible
        axis.plot(*np.transpose(points), linewidth=1, label=label, color=color, marker=marker, markersize=3)
