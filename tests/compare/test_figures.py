"""Figures show the numbers of the frames, and are skipped without data."""

import numpy as np
import pytest
from helpers import stored_runs
from PIL import Image

import mtan_jax as mtan
from mtan_jax.compare import figure_curves, figure_parts, figure_values
from mtan_jax.compare.figure_parts import SkippedError

NAMES = [f"arch={arch} weighting={method}" for arch in ("mtan", "split") for method in ("equal", "nash_mtl")]
METRICS = ("semantic/miou", "depth/abs_error", "delta_m/metrics")


@pytest.fixture(scope="module")
def comparison(stored):
    return mtan.compare_runs(stored[0], baseline="arch=single", metrics=METRICS)


def lines(axis):
    """The curves of a panel, by style."""
    return {(line.get_color(), line.get_linestyle()): line.get_xydata() for line in axis.lines}


def test_values_and_errors_of_each_group(comparison):
    figure = figure_values.draw_metrics(comparison)
    assert figure.get_suptitle() == "Last evaluation on val: mean ± standard error over seeds"
    for axis, name in zip(figure.axes, METRICS, strict=True):
        factor = 100 if name == "semantic/miou" else 1
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(comparison.means.index)
        for position, container in enumerate(box for box in axis.containers if hasattr(box, "has_xerr")):
            mean, error = (
                frame.iloc[position][name] * factor for frame in (comparison.means, comparison.standard_errors)
            )
            point, _, (bar,) = container.lines
            np.testing.assert_allclose(point.get_xydata(), [[mean, position]], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(bar.get_segments()[0][:, 0], [mean - error, mean + error], rtol=1e-9, atol=1e-9)
    # Delta-m is 0 at the baseline, so it is drawn as bars from 0.
    assert [bar.get_width() for bar in figure.axes[2].patches] == pytest.approx(
        list(comparison.means["delta_m/metrics"])
    )
    assert not figure.axes[0].patches


def test_curves_of_means_over_seeds(comparison, stored):
    figure = figure_curves.draw_curves(comparison)
    assert [axis.get_title() for axis in figure.axes] == ["semantic mIoU (%) ↑", "depth abs. err. ↓"]
    colors = figure_parts.group_styles(comparison)
    style = colors["arch=split weighting=nash_mtl"]
    curve = lines(figure.axes[0])[style.color, style.line]
    last = np.mean([stored[1]["split nash_mtl", seed]["semantic/miou"] for seed in range(3)])
    np.testing.assert_allclose(curve[:, 0], [398, 795, 1193, 1590])
    np.testing.assert_allclose(curve[:, 1], 100 * last * np.array([1.03, 1.02, 1.01, 1.0]), rtol=1e-9)
    band = figure.axes[0].collections[-1].get_paths()[0].vertices
    error = np.std([stored[1]["split nash_mtl", seed]["semantic/miou"] for seed in range(3)], ddof=1) / np.sqrt(3)
    at_end = band[band[:, 0] == 1590, 1]
    np.testing.assert_allclose([at_end.min(), at_end.max()], [100 * (last - error), 100 * (last + error)], rtol=1e-9)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["arch=single weighting=equal", *NAMES]


def test_spread_over_weighting_methods(comparison):
    figure = figure_values.draw_sensitivity(comparison)
    axis = figure.axes[1]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["mtan", "split"]
    for position, arch in enumerate(("mtan", "split")):
        values = [
            comparison.means.at[f"arch={arch} weighting={method}", "depth/abs_error"]
            for method in ("equal", "nash_mtl")
        ]
        points = [line.get_xydata()[0] for line in axis.lines if abs(line.get_xydata()[0, 0] - position) < 0.3]
        assert [y for _, y in points] == pytest.approx(values)
        assert axis.texts[position].get_text() == f"{max(values) - min(values):.4f}"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["equal", "nash_mtl"]


def test_delta_m_over_parameters(comparison):
    counts = [3e6, 2e6, 2e6, 1e6, 1e6]
    means = comparison.means
    means["parameters"] = counts
    try:
        figure = figure_values.draw_parameters(comparison)
    finally:
        del means["parameters"]
    points = [box.lines[0].get_xydata()[0] for box in figure.axes[0].containers]
    expected = np.stack([np.array(counts) / 1e6, means["delta_m/metrics"]], axis=1)
    np.testing.assert_allclose(points, expected, atol=1e-9)


def test_task_weights_and_cosines(comparison):
    figure = figure_curves.draw_weights(comparison)
    assert [axis.get_title() for axis in figure.axes] == ["semantic", "depth", "normal"]
    assert len(figure.axes[0].lines) == 4  # not the single-task networks
    figure = figure_curves.draw_cosines(comparison)
    assert [axis.get_title() for axis in figure.axes] == ["semantic-depth", "semantic-normal"]
    for axis, value in zip(figure.axes, (0.2, -0.1), strict=True):
        assert len(axis.lines) == 2  # the runs with telemetry
        for line in axis.lines:
            np.testing.assert_allclose(line.get_ydata(), value * np.array([1.3, 1.2, 1.1, 1.0]), rtol=1e-9)


def test_files_and_reasons(comparison, tmp_path):
    found = comparison.draw(tmp_path)
    assert found == [
        *(f"figure {tmp_path}/{name}.png" for name in ("metrics", "curves", "sensitivity")),
        "figure parameters skipped: parameters were not counted; add --parameters",
        *(f"figure {tmp_path}/{name}.png" for name in ("weights", "cosines")),
    ]
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 5


def test_figures_without_data(tmp_path):
    for seed in (0, 1):
        stored_runs.write(tmp_path / str(seed), {"depth/abs_error": 1.0}, tasks=("depth",), seed=seed, epochs=1)
    found = mtan.compare_runs(tmp_path)
    for draw, reason in (
        (figure_curves.draw_curves, "no run has two evaluations on val"),
        (figure_curves.draw_weights, r"no run logged weights/\.\.\."),
        (figure_curves.draw_cosines, "add telemetry to config.weighting to measure it"),
        (figure_values.draw_sensitivity, "no architecture was trained with two weighting methods"),
        (figure_values.draw_parameters, "parameters were not counted; add --parameters"),
    ):
        with pytest.raises(SkippedError, match=reason):
            draw(found)


def test_forty_groups_look_different():
    styles = figure_parts.styles([str(i) for i in range(40)])
    assert len({(style.color, style.line) for style in styles.values()}) == 40
    assert len({(style.color, style.marker) for style in styles.values()}) == 40


def test_two_fields_are_color_and_line(comparison):
    styles = figure_parts.group_styles(comparison)
    assert styles["arch=single weighting=equal"].color == "black"
    fields = {name: dict(pair.split("=") for pair in name.split()) for name in NAMES}
    for one in NAMES:
        for other in NAMES:
            same_line = fields[one]["arch"] == fields[other]["arch"]
            assert (styles[one].line == styles[other].line) == same_line
            same_color = fields[one]["weighting"] == fields[other]["weighting"]
            assert (styles[one].color == styles[other].color) == same_color
