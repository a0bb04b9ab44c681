"""A comparison of runs that were trained, of which one was stopped."""

import json

import pytest
from helpers import toy_config

import mtan_jax as mtan

pytestmark = pytest.mark.slow
WEIGHTINGS = ("equal", "telemetry+dwa")


def make_config(folder, weighting):
    config = toy_config.get_config()
    config.data.data_dir, config.weighting = str(folder / "data"), weighting
    config.duration, config.eval.every, config.checkpoint.every = "1.5 epochs", "1 epochs", "1 epochs"
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    for weighting in WEIGHTINGS:
        mtan.fit(make_config(folder, weighting), folder / "runs" / weighting)
    return folder


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_trained_runs(folder):
    found = mtan.compare_runs(folder / "runs", parameters=True)
    assert found.warnings == ()
    assert [group.name for group in found.groups] == ["weighting=equal", "weighting=dwa"]
    for weighting in WEIGHTINGS:
        workdir = folder / "runs" / weighting
        last = [row for row in rows_of(workdir) if row["split"] == "val"][-1]
        values = {name: value for name, value in last.items() if "/" in name}
        assert found.runs.loc[str(workdir), list(values)].to_dict() == values
    # Each pixel's prediction is a linear function of its normalized color: 3 weights and a bias per channel, and scale
    # and offset of 3 colors.
    tasks = mtan.Experiment.from_config(make_config(folder, "equal")).tasks
    assert set(found.means["parameters"]) == {4 * sum(task.channels for task in tasks) + 6}


def test_figures_of_trained_runs(folder, tmp_path):
    lines = mtan.compare_runs(folder / "runs", baseline="weighting=equal", parameters=True).draw(tmp_path)
    assert len(lines) == 6
    assert not any("skipped" in line for line in lines)


def test_an_evaluation_that_is_missing(folder, tmp_path):
    for name in ("config.json", "data.json"):
        (tmp_path / name).write_bytes((folder / "runs" / "equal" / name).read_bytes())
    rows = rows_of(folder / "runs" / "equal")
    last = max(row["step"] for row in rows)
    rows = [row for row in rows if row["step"] < last]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (line,) = mtan.compare_runs(tmp_path).warnings
    step = max(row["step"] for row in rows if row["split"] == "val")
    assert line == f"not trained to the end; the last evaluation is that of: {tmp_path} (step {step}, of 1.5 epochs)"
