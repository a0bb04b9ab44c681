"""The code of docs/own_task.md runs, and its numbers are right."""

import pathlib
import re

import numpy as np
import pytest

import mtan_jax as mtan
from mtan_jax.commands import predict_dense

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "own_task.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def names():
    names = {"__name__": "own_task"}
    exec(BLOCKS[0].replace("run = mtan.fit", "workdir = (lambda config, workdir: workdir)"), names)
    return names


def test_the_experiment_accepts_it(names):
    exec(BLOCKS[1], names)
    assert [task.name for task in mtan.Experiment.from_config(names["config"]).tasks] == ["semantic", "squared_depth"]


def test_loss_metric_and_picture_equal_numpy(names):
    rng = np.random.default_rng(0)
    prediction, target = rng.uniform(1, 2, (2, 3, 4, 5, 1)).astype(np.float32)
    target[:, 0] = 0  # undefined
    labelled = np.array([True, False, True])
    squares = (prediction - target)[::2, 1:] ** 2
    total, count = names["squared_error"](prediction, target, labelled)
    np.testing.assert_allclose(total, squares.sum(), rtol=1e-6)
    assert count == squares.size
    state = names["squared_depth"].metric().update(prediction, target, labelled)
    np.testing.assert_allclose(state.merge(state).compute()["rmse"], squares.mean() ** 0.5, rtol=1e-6)
    assert np.isnan(names["squared_depth"].metric().compute()["rmse"])
    assert names["gray"](target[0], None, None).max() == 255


@pytest.mark.slow
def test_the_page_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    names = {"__name__": "own_task"}
    exec(BLOCKS[0], names)
    run = names["run"]
    assert {row["split"]: row for row in run.metrics}["val"]["squared_depth/rmse"] > 0
    folder = predict_dense.predict_split(run.experiment, run.workdir, "newest", "val", 1)
    assert list(folder.glob("*.png"))
