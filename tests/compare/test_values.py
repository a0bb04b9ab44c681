"""Which evaluation of a run counts."""

import math

import pytest

from mtan_jax.compare.errors import ComparisonError
from mtan_jax.compare.values import Use

ROWS = [
    {"step": 10 * (i + 1), "epoch": i + 1.0, "split": "val", "a/miou": miou, "b/mean": mean}
    for i, (miou, mean) in enumerate([(0.1, 50.0), (0.4, 20.0), (0.4, 30.0), (0.2, 40.0)])
]


def of(text, rows=ROWS, **own):
    return Use.parse(text, own).of(rows)


def test_last():
    assert of("last").metrics == {"a/miou": 0.2, "b/mean": 40.0}
    assert (of("last").step, of("last").evaluations) == (40, 1)


def test_mean():
    assert of("mean:3").metrics == pytest.approx({"a/miou": (0.4 + 0.4 + 0.2) / 3, "b/mean": 30.0}, rel=1e-12)
    assert (of("mean:3").step, of("mean:3").evaluations) == (40, 3)
    assert of("mean:9").evaluations == 4
    assert of("mean:9").metrics["b/mean"] == pytest.approx(35.0, rel=1e-12)


def test_best_in_either_direction():
    assert (of("best:a/miou").step, of("best:a/miou").metrics["b/mean"]) == (20, 20.0)  # the first of two
    assert of("best:b/mean").step == 20
    assert of("best:b/mean", **{"b/mean": True}).step == 10
    assert of("best:a/miou").evaluations == 4


def test_values_that_are_not_finite():
    rows = [*ROWS[:2], ROWS[2] | {"a/miou": math.nan}, {**ROWS[3], "c/new": 1.0}]
    assert math.isnan(of("mean:2", rows).metrics["a/miou"])
    assert math.isnan(of("mean:2", rows).metrics["c/new"])  # not in all of them
    assert of("best:a/miou", rows).step == 20


def test_without_the_metric_the_last_evaluation_stands_in():
    found = of("best:c/miou")
    assert found.is_fallback
    assert found.metrics == of("last").metrics


@pytest.mark.parametrize(
    ("text", "heading"),
    [
        ("last", "Last evaluation on val"),
        ("mean:10", "Mean of the last 10 evaluations on val"),
        ("best:a/miou", "Evaluation with the best a/miou on val (best on val, biased)"),
    ],
)
def test_headings(text, heading):
    assert Use.parse(text, {}).heading("val") == heading


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("first", "--use=first; expected last, mean:N such as mean:10, or best:METRIC"),
        ("mean:0", "--use=mean:0; expected last"),
        ("best:edges/f1", "whether higher or lower edges/f1 is better; add --higher=edges/f1 or --lower=edges/f1"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(ComparisonError, match=message):
        Use.parse(text, {})
