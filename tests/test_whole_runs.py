"""The path a user walks, on real rooms and on a release in Cityscapes' layout: prepare, train, evaluate, predict."""

import importlib.util
import logging
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from cityscapes_release import write_release

from mtan_jax import predict, train, workdir, writers
from mtan_jax.data.streets import render
from mtan_jax.experiment import Experiment

ROOT = pathlib.Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"


def load_config(name, argument):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def run(config, folder):
    """Trains, and returns the metrics lines."""
    experiment = Experiment.from_config(config)
    workdir.claim(folder, config, write=True)
    experiment.prepare_data()
    train.train(experiment, folder)
    return experiment, writers.read_metrics(folder / "metrics.jsonl")


def losses(lines, names):
    logged = [line for line in lines if line["split"] == "train"]
    return {name: (logged[0][f"{name}/loss"], logged[-1][f"{name}/loss"]) for name in names}


@pytest.fixture(scope="module")
def nyuv2_layouts(tmp_path_factory):
    tool = SHARED / "tools" / "make_nyuv2_release.py"
    if not tool.exists():
        pytest.skip(f"no real frames: {tool} is not there")
    folder = tmp_path_factory.mktemp("nyuv2")
    for layout in ("mat", "npy"):
        subprocess.run([sys.executable, tool, layout, folder / layout], check=True)
    return {"release": folder / "mat", "authors": folder / "npy"}


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["release", "authors"])
def test_nyuv2_learns_on_real_rooms(layout, nyuv2_layouts, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    config = load_config("nyuv2", "width=0.0625")
    config.data.raw_dir, config.data.data_dir = str(nyuv2_layouts[layout]), str(tmp_path / "data")
    config.data.options.layout = layout
    if layout == "release":  # the other layout has but one size
        config.data.options.image_size = (96, 128)
    config.data.workers = 0
    config.batch_size = config.eval.batch_size = 4
    config.optimizer.learning_rate = 5e-3
    config.duration = "100 steps" if layout == "release" else "8 steps"
    config.log_every = "4 steps"
    config.eval.every = config.checkpoint.every = "1000 steps"
    experiment, lines = run(config, tmp_path / "run")
    if layout == "release":
        # To halve the loss of 13 classes takes more steps than a test has.
        share = {"semantic": 0.9, "depth": 0.5, "normal": 0.5}
        for name, (first, last) in losses(lines, experiment.task_names).items():
            assert last < first * share[name], name
    metrics = next(line for line in lines if line["split"] == "val")
    assert all(np.isfinite(value) for name, value in metrics.items() if "/" in name)
    folder = predict.predict_split(experiment, tmp_path / "run", "newest", "val", 2)
    assert len(list(folder.glob("*.png"))) == len(list(folder.glob("*.npz"))) == 2


@pytest.mark.slow
def test_cityscapes_release_prepares_and_trains(tmp_path):
    scenes = [
        {**scene, "inverse_depth": scene["depth"], "split": split, "city": city}
        for split, city, count in (("train", "bonn", 4), ("val", "ulm", 2))
        for scene in (render(0, split, index, (1024, 2048)) for index in range(count))
    ]
    arrays = {}
    for kind in ("folders", "zips"):
        write_release(tmp_path / kind, scenes, zips=kind == "zips")
        config = load_config("cityscapes", "smoke")
        config.data.raw_dir, config.data.data_dir = str(tmp_path / kind), str(tmp_path / f"data_{kind}")
        config.batch_size = config.eval.batch_size = 4
        config.data.options.image_size = (128, 256)
        experiment = Experiment.from_config(config)
        experiment.prepare_data()
        arrays[kind] = [batch for split in ("train", "val") for batch in experiment.whole_split(split)]
    for from_folders, from_zips in zip(*arrays.values(), strict=True):
        np.testing.assert_array_equal(from_folders["image"], from_zips["image"])
        for name in ("semantic", "depth"):
            np.testing.assert_array_equal(from_folders["targets"][name], from_zips["targets"][name])
    # What comes out is what the renderer knows of the same scene at the same places: nearest pixels of 8 x 8.
    known = scenes[0]["semantic"][4::8, 4::8]
    assert (arrays["zips"][0]["targets"]["semantic"][0] == known).mean() > 0.99
    config.duration, config.log_every = "30 steps", "5 steps"
    config.optimizer.learning_rate = 5e-3
    experiment, lines = run(config, tmp_path / "run")
    for name, (first, last) in losses(lines, experiment.task_names).items():
        assert last < first, name
