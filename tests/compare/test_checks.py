"""Each reason for a warning, in runs that differ in nothing else."""

import math

import pytest
from helpers import stored_runs

import mtan_jax as mtan

DEPTH = {"depth/abs_error": 0.5}


def warnings(folder, *runs, **options):
    """The warnings about runs with these changes, called 0, 1, ..."""
    for i, changes in enumerate(runs):
        stored_runs.write(folder / str(i), **{"values": DEPTH, "tasks": ("depth",), "seed": i, **changes})
    return [line.replace(f"{folder}/", "") for line in mtan.compare_runs(folder, **options).warnings]


def test_runs_that_agree(tmp_path):
    assert warnings(tmp_path, {}, {}, {}) == []


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"name": "cityscapes"}, "(name in data.json): nyuv2 in 0, 1; cityscapes in 2"),
        ({"image_size": [96, 128]}, "(image_size in data.json): [288, 384] in 0, 1; [96, 128] in 2"),
        (
            {"examples": {"nyuv2": {"train": 795, "val": 100}}},
            "(examples.nyuv2.val in data.json): 654 in 0, 1; 100 in 2",
        ),
        ({"variants": {"nyuv2": "13-npy"}}, "(variants.nyuv2 in data.json): 13-release in 0, 1; 13-npy in 2"),
    ],
)
def test_data(tmp_path, record, line):
    assert warnings(tmp_path, {}, {}, {"record": record}) == [f"runs differ in data {line}"]


def test_classes(tmp_path):
    (line,) = warnings(tmp_path, {}, {"record": {"classes": ["a", "b"]}})
    assert "(classes in data.json): 13 names (" in line
    assert line.endswith("; ['a', 'b'] in 1")
    many = [f"class {i}" for i in range(40)]
    first, second = ({"record": {"classes": names}} for names in (many, [*many[:-1], "other"]))
    (line,) = warnings(tmp_path / "many", first, second)
    assert line.count("40 names (CRC-32 ") == 2


def test_sets_of_images_are_compared_where_runs_share_them(tmp_path):
    def record(train):
        return {"record": {"sets": {name: {"mean": [0.1 + 1e-9, 0.2, 0.3]} for name in train}, "examples": train}}

    a, b, c = record({"signs": 5, "digits": 7}), record({"signs": 5}), record({"digits": 8})
    assert warnings(tmp_path, a, b, c) == ["runs differ in data (examples.digits in data.json): 7 in 0; 8 in 2"]


def test_missing_records_of_data(tmp_path):
    for i in (0, 1):
        stored_runs.write(tmp_path / str(i), DEPTH, tasks=("depth",), seed=i)
    (tmp_path / "1" / "data.json").unlink()
    (line,) = mtan.compare_runs(tmp_path).warnings
    assert line == f"there is no data.json, so it is unknown whether the data are the same: {tmp_path}/1"


def test_lengths(tmp_path):
    lines = warnings(tmp_path, {}, {"seed": 0, "batch_size": 4}, {"seed": 0, "duration": "3 epochs"})
    assert lines == [
        "runs differ in duration: 4 epochs in 0, 1; 3 epochs in 2",
        "runs differ in batch_size: 2 in 0, 2; 4 in 1",
    ]


def test_steps_of_runs_of_one_duration(tmp_path):
    for i in (0, 1):
        stored_runs.write(tmp_path / str(i), DEPTH, tasks=("depth",), seed=i)
    path = tmp_path / "1" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"step": 1590', '"step": 1600'))
    lines = mtan.compare_runs(tmp_path).warnings
    assert lines == (f"runs differ in length: 1590 steps in {tmp_path}/0; 1600 steps in {tmp_path}/1",)


def test_protocols(tmp_path):
    lines = warnings(tmp_path, {}, {"seed": 0, "eval__protocol": "authors"})
    assert lines == ["runs differ in eval.protocol: exact in 0; authors in 1"]


def test_delta_m_as_logged(tmp_path):
    def run(value, **changes):
        return {
            "values": {**DEPTH, "delta_m/metrics": 3.0},
            "eval__single_task": (("depth/abs_error", value),),
            **changes,
        }

    assert warnings(tmp_path, run(0.4), run(0.4)) == []
    found = mtan.compare_runs(tmp_path)
    assert found.means["delta_m/metrics"].item() == 3.0
    assert "with respect to config.eval.single_task, as logged" in found.to_text()
    (line,) = warnings(tmp_path / "other", run(0.4), run(0.3))
    assert line == "runs differ in eval.single_task: [['depth/abs_error', 0.4]] in 0; [['depth/abs_error', 0.3]] in 1"
    changes = run(0.3, model__arch="single", seed=0)
    assert warnings(tmp_path / "baseline", run(0.4), changes, baseline="arch=single")[0].startswith("only one seed")


def test_incomplete_runs(tmp_path):
    lines = warnings(tmp_path, {}, {"epochs": 3})
    assert lines == ["not trained to the end; the last evaluation is that of: 1 (step 1193, of 4 epochs)"]


def test_runs_without_an_evaluation(tmp_path):
    lines = warnings(tmp_path, {}, {"epochs": 0, "logged": {}})
    assert lines == ["1 is left out: it has no row of split val yet"]


def test_seeds(tmp_path):
    lines = warnings(tmp_path, {}, {}, {"seed": 0, "model__arch": "split"})
    assert lines == ["groups differ in their seeds: 0, 1 in arch=mtan; 0 in arch=split"]


def test_missing_metrics(tmp_path):
    values = {**DEPTH, "depth/rel_error": 0.1}
    (line,) = warnings(tmp_path, {"values": values}, {}, {"values": values})
    assert line == "depth/rel_error is missing in 1"


def test_values_that_are_not_finite(tmp_path):
    lines = warnings(tmp_path, {}, {"values": {"depth/abs_error": math.nan}})
    assert lines == ["depth/abs_error is not finite, and left out of means, in 1"]
    assert mtan.compare_runs(tmp_path).counts["depth/abs_error"].item() == 1


def test_tasks(tmp_path):
    values = {**DEPTH, "normal/mean": 20.0}
    lines = warnings(tmp_path, {}, {"values": values, "tasks": ("depth", "normal"), "seed": 0})
    assert lines == [
        "groups differ in their tasks, so Delta-m and the mean rank depend on different metrics: depth in "
        "tasks=depth; depth, normal in tasks=depth+normal"
    ]


def test_numbers_of_evaluations(tmp_path):
    runs = [{}, {"epochs": 2}]
    incomplete = "not trained to the end; the last evaluation is that of: 1 (step 795, of 4 epochs)"
    assert warnings(tmp_path, *runs, use="mean:3") == [
        incomplete,
        "1 has 2 evaluations on val, so the mean is over these and not 3",
    ]
    assert warnings(tmp_path / "best", *runs, use="best:depth/abs_error") == [
        incomplete,
        "runs differ in the number of evaluations on val: 4 in 0; 2 in 1",
    ]


def test_best_by_a_metric_that_a_run_lacks(tmp_path):
    other = {"values": {"normal/mean": 20.0}, "tasks": ("normal",), "seed": 0}
    lines = warnings(tmp_path, {}, other, use="best:depth/abs_error")
    assert lines[0] == "without depth/abs_error, the last evaluation is used instead of the best: 1"


def test_pairs_of_seeds(tmp_path):
    single = {"model__arch": "single"}
    lines = warnings(
        tmp_path, {"seed": 0, **single}, {"seed": 0}, {"seed": 5, "model__arch": "split"}, baseline="arch=single"
    )
    assert lines[-2:] == [
        "no seeds in common with the reference, so there are no differences: arch=split",
        "only one seed in common with the reference, so differences have no interval: arch=mtan",
    ]


def test_metrics_of_ones_own_task_without_a_direction(tmp_path):
    values = {**DEPTH, "depth/rmse": 0.7}
    runs = [{"values": values}, {"values": values}]
    (line,) = warnings(tmp_path, *runs)
    assert line == (
        "metrics without a known direction do not count, and are not shown unless asked for: depth/rmse; add "
        "--lower=depth/rmse if less is better, else --higher=depth/rmse"
    )
    assert warnings(tmp_path / "with", *runs, higher_is_better={"depth/rmse": False}) == []
