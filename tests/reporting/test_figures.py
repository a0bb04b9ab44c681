import numpy as np
import pytest
from matplotlib import _pylab_helpers
from PIL import Image

from mtan_jax import tasks
from mtan_jax.data.builder import DataInfo
from mtan_jax.reporting import figures
from mtan_jax.reporting.figure_style import save_png
from mtan_jax.reporting.sinks import open_sinks

INFO = DataInfo(
    name="toy",
    image_size=(16, 24),
    classes=("road", "sky", "car"),
    palette=np.array([[128, 64, 128], [70, 130, 180], [0, 0, 142]], np.uint8),
    inverse_depth=True,
    depth_unit="1/m",
)
TASKS = tasks.build_tasks(("semantic", "depth", "normal"), INFO)


@pytest.fixture
def example():
    rng = np.random.default_rng(0)
    targets = {
        "semantic": rng.integers(-1, 3, (16, 24)).astype(np.int32),
        "depth": rng.uniform(0.5, 4, (16, 24, 1)).astype(np.float32),
        "normal": rng.uniform(-1, 1, (16, 24, 3)).astype(np.float32),
    }
    targets["depth"][0] = 0
    predictions = {
        "semantic": rng.normal(size=(16, 24, 3)).astype(np.float32),
        "depth": rng.uniform(-1, 9, (16, 24, 1)).astype(np.float32),
        "normal": rng.uniform(-1, 1, (16, 24, 3)).astype(np.float32),
    }
    return rng.random((16, 24, 3), dtype=np.float32), predictions, targets


def all_axes(figure):
    found = list(figure.axes)
    return list(dict.fromkeys(found + [axis for part in figure.subfigs for axis in part.axes]))


def shown(figure):
    """The arrays in a figure, by title; axes without one by place."""
    return {axis.get_title() or i: axis.images[0].get_array() for i, axis in enumerate(all_axes(figure)) if axis.images}


def test_panel_shows_image_truth_and_prediction_of_each_task(example):
    image, predictions, targets = example
    found = shown(figures.panel(*example, TASKS, INFO))
    assert len(found) == 7
    np.testing.assert_array_equal(found["image"], image)
    void = targets["semantic"] == -1
    expected = np.where(void[..., None], 0, INFO.palette[targets["semantic"]])
    np.testing.assert_array_equal(found["semantic, ground truth"], expected)
    np.testing.assert_array_equal(found["semantic, prediction"], INFO.palette[predictions["semantic"].argmax(-1)])
    np.testing.assert_allclose(found["normal, prediction"], (predictions["normal"] + 1) * 127.5, atol=1)
    # Prediction and truth share the truth's scale: what is beyond it has the colour of its end.
    far = predictions["depth"][..., 0] > targets["depth"].max()
    nearest = np.unravel_index(targets["depth"].argmax(), targets["depth"].shape)[:2]
    assert far.any()
    assert (found["depth, prediction"][far] == found["depth, ground truth"][nearest]).all()


def test_panel_has_a_key_for_each_kind_of_colour(example):
    figure = figures.panel(*example, TASKS, INFO)
    figure.draw_without_rendering()
    legends = [axis.get_legend() for axis in all_axes(figure) if axis.get_legend()]
    (legend,) = legends
    assert [text.get_text() for text in legend.get_texts()] == ["road", "sky", "car", "void"]
    colours = [np.round(np.array(patch.get_facecolor()[:3]) * 255) for patch in legend.get_patches()]
    np.testing.assert_array_equal(colours[:3], INFO.palette)
    bars = [axis for parent in all_axes(figure) for axis in parent.child_axes if axis.get_xlabel()]
    (bar,) = bars
    assert bar.get_xlabel() == "inverse depth in 1/m; grey: undefined"
    defined = example[2]["depth"][example[2]["depth"] > 0]
    np.testing.assert_allclose(bar.get_xlim(), (defined.min(), defined.max()))


def test_panel_of_an_image_without_ground_truth(example):
    image, predictions, _ = example
    found = shown(figures.panel(image, predictions, {}, TASKS, INFO))
    assert list(found) == ["image", "semantic, prediction", "depth, prediction", "normal, prediction"]


def test_panel_says_where_a_label_is_missing(example):
    image, predictions, targets = example
    del targets["depth"]
    found = shown(figures.panel(image, predictions, targets, TASKS, INFO))
    assert "depth, ground truth" not in found
    np.testing.assert_array_equal(found["depth, not labelled"], 255)


def test_panel_shows_the_mean_mask_of_each_task_and_stage_on_one_scale(example):
    rng = np.random.default_rng(1)
    masks = {"encoder_0": rng.random((3, 16, 24, 4)), "decoder_0": rng.random((3, 8, 12, 2))}
    figure = figures.panel(*example, TASKS, INFO, masks)
    drawn = [axis.images[0] for axis in figure.subfigs[1].axes if axis.images]
    assert len(drawn) == 6
    for i, image in enumerate(drawn):
        task, stage = divmod(i, 2)
        mask = list(masks.values())[stage][task]
        np.testing.assert_allclose(image.get_array(), mask.sum(axis=-1) / mask.shape[-1], rtol=1e-6)
        assert image.get_clim() == (0, 1)
    titles = [axis.get_title() for axis in figure.subfigs[1].axes if axis.get_title()]
    assert titles == ["encoder_0", "decoder_0"]


def test_files_are_pictures_and_no_figure_stays_open(example, tmp_path):
    path = tmp_path / "figures" / "a.png"
    figure = figures.panel(*example, TASKS, INFO)
    save_png(figure, path)
    with Image.open(path) as picture:
        expected = figure.get_size_inches() * figures.DOTS_PER_INCH
        np.testing.assert_allclose(picture.size, expected, atol=1)
        # Something is drawn in each quarter of the height.
        rows = np.array_split(np.asarray(picture.convert("L")), 4)
        assert all(part.std() > 5 for part in rows)
    assert not _pylab_helpers.Gcf.figs


def test_curves_show_every_logged_number(tmp_path):
    with open_sinks(tmp_path, 0, 4) as writer:
        for step in (2, 4):
            train = {
                "semantic/loss": 1 / step,
                "depth/loss": 2.0,
                "weights/semantic": 0.5,
                "weights/depth": float(step),
            }
            writer.write(step, step / 2, "train", {**train, "steps_per_second": 1.0})
        writer.write(4, 2, "val", {"semantic/loss": 0.75, "semantic/miou": 0.3})
    figure = figures.curves(tmp_path / "metrics.jsonl")
    lines = {
        (axis.get_title(), line.get_label()): line.get_xydata().tolist() for axis in figure.axes for line in axis.lines
    }
    assert lines == {
        ("semantic loss", "train"): [[2, 0.5], [4, 0.25]],
        ("semantic loss", "val"): [[4, 0.75]],
        ("depth loss", "train"): [[2, 2], [4, 2]],
        ("task weights", "semantic"): [[2, 0.5], [4, 0.5]],
        ("task weights", "depth"): [[2, 2], [4, 4]],
    }


def test_curves_of_a_run_without_losses(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"metrics\.jsonl contains no losses yet"):
        figures.curves(tmp_path / "metrics.jsonl")
