"""The path a user walks, on real rooms and on a release in Cityscapes' layout: prepare, train, evaluate, predict."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from helpers.cityscapes_release import write_release

from mtan_jax.data.streets import render
from mtan_jax.experiment import Experiment
from mtan_jax.reporting import metrics_file
from mtan_jax.training import loop, workdir

ROOT = pathlib.Path(__file__).parents[2]
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
    experiment.data.prepare()
    loop.train(experiment, folder)
    return experiment, metrics_file.read_metrics(folder / "metrics.jsonl")


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


def call_program(*flags, **fields):
    """Runs the program as a user does, on one device."""
    command = [sys.executable, "-m", "mtan_jax.main", *map(str, flags)]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


LEARN = {
    "data.options.image_size": (64, 96),
    "optimizer.learning_rate": 1e-3,
    "optimizer.schedule": "cosine",
    "weighting": "static",
    "weighting_options.static.weights.semantic": 10.0,  # the loss of 13 classes is the slowest to fall
    "weighting_options.static.weights.normal": 2.0,
    "duration": "1600 steps",
    "log_every": "10 steps",
}
START = {"duration": "4 steps", "log_every": "2 steps"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("layout", "fields"),
    [("release", LEARN), ("authors", START)],  # authors': 288x384 only
)
def test_nyuv2_learns_on_real_rooms(layout, fields, nyuv2_layouts, tmp_path):
    flags = ["--config=configs/nyuv2.py:width=0.25", f"--workdir={tmp_path / 'run'}"]
    fields = {
        "data.raw_dir": nyuv2_layouts[layout],
        "data.data_dir": tmp_path / "data",
        "data.options.layout": layout,
        "data.workers": 0,
        "eval.every": "1600 steps",
        "checkpoint.every": "1600 steps",
        **fields,
    }
    call_program(*flags, **fields)
    lines = metrics_file.read_metrics(tmp_path / "run" / "metrics.jsonl")
    if layout == "release":
        for name, (first, last) in losses(lines, ("semantic", "depth", "normal")).items():
            assert last <= first / 2, f"{name}: from {first} to {last}"
    metrics = next(line for line in lines if line["split"] == "val")
    assert all(np.isfinite(value) for name, value in metrics.items() if "/" in name)
    call_program(*flags, "--mode=predict", "--count=2", **fields)
    folder = tmp_path / "run" / "figures" / "val"
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
        experiment.data.prepare()
        arrays[kind] = [batch for split in ("train", "val") for batch in experiment.data.whole_split(split)]
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
