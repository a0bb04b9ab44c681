"""The Python API: train, look, predict, as in a notebook."""

import contextlib
import dataclasses
import errno
import os
import pathlib
import subprocess
import sys
from typing import ClassVar

import flax.struct
import jax
import numpy as np
import pytest
from helpers import toy_config, toy_sets_config

import mtan_jax as mtan
from mtan_jax import tasks
from mtan_jax.tasks.metrics import DepthMetric
from mtan_jax.training import loop
from mtan_jax.training.workdir import WorkdirError


def make_config(module, data_dir, **options):
    config = module.get_config()
    config.data.data_dir = str(data_dir)
    for name, value in options.items():
        config.update_from_flattened_dict({name: value})
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    return mtan.fit(make_config(toy_config, folder / "data"), str(folder / "run"))


def test_every_public_name_is_there_and_documented():
    for name in mtan.__all__:
        value = getattr(mtan, name)
        assert isinstance(value, str) or value.__doc__
    assert set(mtan.__all__) <= set(dir(mtan))
    with pytest.raises(AttributeError, match=r"no attribute 'fitt'; it has: .*\bfit\b"):
        _ = mtan.fitt


def test_fit_returns_the_rows_of_the_metrics_file(run):
    train = [row for row in run.metrics if row["split"] == "train"]
    assert [row["step"] for row in train] == [1, 2, 3, 4]
    assert all(np.isfinite(row["semantic/loss"]) for row in train)
    assert mtan.evaluate(run) == {
        name: value
        for name, value in next(row for row in run.metrics[::-1] if row["split"] == "val").items()
        if name not in ("step", "epoch", "split", "seconds", "steps_per_second")
    }


def test_a_complete_run_is_not_trained_again(run):
    before = (run.workdir / "metrics.jsonl").read_bytes()
    again = mtan.fit(run.config, run.workdir)
    assert (run.workdir / "metrics.jsonl").read_bytes() == before
    assert again.metrics == run.metrics


def test_full_disk_names_the_working_directory(run, monkeypatch):
    # Named after a fault: a row of metrics that could not be written ended in "[Errno 28] No space left on device".
    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(loop, "_train", fail)
    with pytest.raises(OSError, match=rf"a file in {run.workdir} cannot be written .*free some space and run the same"):
        mtan.fit(run.config, run.workdir)


def test_another_configuration_is_refused(run):
    with pytest.raises(WorkdirError, match=r"config\.seed: 0 there, 1 here"):
        mtan.fit(make_config(toy_config, run.config.data.data_dir, seed=1), run.workdir)


def test_a_configuration_may_be_changed_for_the_next_run(tmp_path):
    # Named after a fault: runs of a loop over configurations all showed the last one.
    config = make_config(toy_config, tmp_path / "data")
    run = mtan.Run(mtan.Experiment.from_config(config), tmp_path)
    config.weighting = "dwa"
    assert run.config.weighting == "equal"


def test_delta_m_knows_the_metrics_of_a_task_of_ones_own(run, tmp_path):
    # Named after a fault: the direction of metrics was looked up among those of the built-in tasks alone.
    @flax.struct.dataclass
    class Hits(DepthMetric):
        higher_is_better: ClassVar = {"hits": True}

        def compute(self):
            return {"hits": 1 - DepthMetric.compute(self)["rel_error"]}

    depth = dataclasses.replace(tasks.depth(), metric=lambda protocol="exact": Hits.empty(), main_metric="hits")
    config = make_config(toy_config, tmp_path, tasks=(depth,), **{"eval.single_task": (("depth/hits", 0.5),)})
    assert mtan.Experiment.from_config(config).metrics["depth/hits"]


def test_predictions_of_arrays_are_those_of_the_split(run):
    batch = next(iter(run.experiment.data.whole_split("val")))
    predictions = mtan.predict(run, batch["image"])
    assert set(predictions) == set(run.experiment.task_names)
    state = run.restore()
    with jax.default_device(jax.devices()[0]):
        expected = run.experiment.model.apply(state.variables, batch["image"], train=False)
    for name, array in predictions.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 5])
def test_images_of_any_number_size_and_type(run, count):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20 + i, 30, 3)).astype(np.uint8) for i in range(count)]
    found = mtan.predict(run, images)
    alone = [mtan.predict(run, [image]) for image in images]
    for name, array in found.items():
        assert array.shape[:3] == (count, *run.experiment.data.info.image_size)
        np.testing.assert_allclose(array, np.concatenate([part[name] for part in alone]), rtol=1e-5, atol=1e-6)
    floats = mtan.predict(run, [image.astype(np.float32) / 255 for image in images])
    for name, array in floats.items():  # uint8 pixels are rounded after resizing
        np.testing.assert_allclose(array, found[name], atol=0.05)


def test_masks_on_request(tmp_path):
    config = mtan.load_config("streets:smoke")
    config.data.data_dir, config.compilation_cache = str(tmp_path), ""
    experiment = mtan.Experiment.from_config(config)
    run = mtan.Run(experiment, tmp_path)
    image = np.zeros((2, *experiment.data.info.image_size, 3), np.uint8)
    found = mtan.predict(run, image, checkpoint="initial", masks=True)
    masks = {name: array for name, array in found.items() if name.startswith("masks/")}
    assert len(masks) == 10
    assert masks["masks/encoder_0"].shape[:2] == (2, len(experiment.tasks))
    assert all(((array >= 0) & (array <= 1)).all() for array in masks.values())


@pytest.mark.slow
def test_sets_of_images(tmp_path):
    run = mtan.fit(make_config(toy_sets_config, tmp_path / "data"), tmp_path / "run")
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 40, 3)).astype(np.uint8)
    found = mtan.predict(run, images)
    for name, image_set in run.experiment.data.info.sets.items():
        assert found[name].shape == (3, len(image_set.classes))
        np.testing.assert_allclose(np.exp(found[name]).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8), np.uint8), r"images\[0\] has shape \(8, 8\); expected \[height, width, 3\]"),
        (np.zeros((1, 8, 8, 3), np.int32), r"images\[0\] is int32; expected uint8, or floats in 0\.\.1"),
        (np.full((1, 8, 8, 3), 200.0), r"images\[0\] has values from 200 to 200; expected floats in 0\.\.1"),
        (np.full((1, 8, 8, 3), np.nan), "has values from nan to nan"),
        ([], "there are no images to predict"),
    ],
)
def test_bad_images_are_named(run, images, message):
    with pytest.raises(ValueError, match=message):
        mtan.predict(run, images)


def test_a_split_without_labels_cannot_be_evaluated(run):
    with pytest.raises(ValueError, match="split 'test' cannot be evaluated"):
        mtan.evaluate(run, split="test")


@pytest.mark.slow
def test_the_ten_lines_of_the_readme(tmp_path):
    readme = pathlib.Path(__file__).parents[2] / "README.md"
    code = readme.read_text().split("## In Python", 1)[1].split("```python\n", 1)[1].split("```", 1)[0]
    with contextlib.suppress(KeyError):
        del os.environ["XLA_FLAGS"]
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "semantic/loss" in done.stdout
    assert "masks/decoder_0" in done.stdout
