"""How metrics are shown."""

import pytest

from mtan_jax.compare import metric_names
from mtan_jax.compare.metric_names import describe


@pytest.mark.parametrize(
    ("name", "largest", "value", "title", "text"),
    [
        ("semantic/miou", 1.0, 0.39294, "semantic mIoU (%)", "39.29"),
        ("depth/abs_error", 0.6, 0.01552, "depth abs. err.", "0.0155"),
        ("depth/rel_error", 46.8, 27.7749, "depth rel. err.", "27.77"),  # Cityscapes
        ("depth/rel_error", 4.68, 2.77749, "depth rel. err.", "2.777"),
        ("normal/within_11.25", 1.0, 0.2209, "normal <11.25° (%)", "22.09"),
        ("digits/accuracy", 1.0, 0.85714, "digits accuracy (%)", "85.71"),
        ("mean/accuracy", 1.0, 0.85714, "mean accuracy (%)", "85.71"),
        ("edges/my_score", 1234.5, 1234.5, "edges my score", "1234"),
        ("delta_m/metrics", 5.0, -0.001, "Δm metrics (%)", "0.00"),  # not -0.00
        ("parameters", 5e7, 44_229_073.0, "parameters (M)", "44.23"),
    ],
)
def test_numbers(name, largest, value, title, text):
    metric = describe(name, {}, largest)
    assert (metric.title, metric.text(value)) == (title, text)


def test_directions():
    own = {"f1": True, "a/loss": True}
    found = {name: metric_names.direction(name, own) for name in ("x/f1", "a/loss", "b/loss", "x/mean", "x/other")}
    assert found == {"x/f1": True, "a/loss": True, "b/loss": False, "x/mean": False, "x/other": None}
    assert [describe(name, own).arrow for name in ("x/f1", "b/loss", "x/other")] == ["↑", "↓", ""]


def test_counted_metrics_in_the_order_of_tables():
    names = ["depth/loss", "depth/rel_error", "depth/abs_error", "semantic/pixel_accuracy", "semantic/miou", "edges/f1"]
    names += ["mean/accuracy", "other/miou", "delta_m/metrics"]
    found = metric_names.counted(names, ["semantic", "edges", "depth"], {"f1": True})
    assert found == ["semantic/miou", "semantic/pixel_accuracy", "edges/f1", "depth/abs_error", "depth/rel_error"]
