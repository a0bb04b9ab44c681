"""A trained run on a machine without its dataset: what works there, and what the others say."""

import dataclasses
import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
from flax import traverse_util
from helpers import toy_config
from helpers.compiling import xla_flags
from helpers.decathlon_release import drawn, write_folders
from helpers.nyuv2_release import frames, write_mat

from mtan_jax.commands import predict_image_sets
from mtan_jax.data.dataset_record import DataRecord
from mtan_jax.experiment import Experiment
from mtan_jax.interop import files
from mtan_jax.training import loop, workdir

ROOT = pathlib.Path(__file__).parents[2]
SETS = "smoke,sets=mine+yours,arch=split,backbone=wrn10_4"
COUNTS = {
    "mine": {"train": {"cat": 4, "dog": 5}, "val": {"cat": 2, "dog": 2}},
    "yours": {"train": {"a": 3, "b": 3, "c": 3}, "val": {"a": 1, "b": 1, "c": 1}},
}


def train_run(config, folder, raw=None):
    """Trains in this process; returns the experiment."""
    config.data.data_dir, config.data.raw_dir = str(folder / "prepared"), raw and str(raw)
    config.compilation_cache = ""
    experiment = Experiment.from_config(config)
    workdir.claim(folder / "run", config, write=True)
    experiment.data.prepare()
    loop.train(experiment, folder / "run")
    return experiment


@pytest.fixture(scope="module")
def dense_run(tmp_path_factory):
    """A run whose dataset is gone."""
    folder = tmp_path_factory.mktemp("dense")
    train_run(toy_config.get_config(), folder)
    shutil.rmtree(folder / "prepared")
    return folder


@pytest.fixture(scope="module")
def sets_run(tmp_path_factory):
    """A run on folders of classes, which are gone; a copy of the prepared sets is in `kept`."""
    folder = tmp_path_factory.mktemp("sets")
    for name, counts in COUNTS.items():
        write_folders(folder / "raw", name, counts)
    config = runpy.run_path(str(ROOT / "configs" / "decathlon.py"))["get_config"](SETS)
    config.data.options.layout = "folders"
    config.duration = config.log_every = config.eval.every = config.checkpoint.every = "1 steps"
    experiment = train_run(config, folder, folder / "raw")
    predict_image_sets.predict_split(experiment, folder / "run", "newest", "val", 2)
    (folder / "images").mkdir()
    for path in (folder / "raw" / "mine" / "val").glob("*/*.jpg"):
        shutil.copy(path, folder / "images" / f"{path.parent.name}_{path.name}")
    shutil.move(folder / "prepared", folder / "kept")
    shutil.rmtree(folder / "raw")
    return folder


def dense_flags(folder):
    data = folder / "prepared"
    return f"--config={toy_config.__file__}", f"--workdir={folder / 'run'}", f"--config.data.data_dir={data}"


def sets_flags(folder, run="run", data="prepared"):
    periods = ("duration", "log_every", "eval.every", "checkpoint.every")
    return (
        f"--config={ROOT}/configs/decathlon.py:{SETS}",
        "--config.data.options.layout=folders",
        "--config.compilation_cache=",
        *(f"--config.{name}=1 steps" for name in periods),
        f"--config.data.data_dir={folder / data}",
        f"--config.data.raw_dir={folder / 'raw'}",
        f"--workdir={folder / run}",
    )


def draw_images(folder):
    folder.mkdir(parents=True)
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(drawn(i))
    return folder


def copy_without_record(folder):
    """The working directory of a run of an older version."""
    old = folder / "old_run"
    if not old.exists():
        shutil.copytree(folder / "run", old, ignore=shutil.ignore_patterns(workdir.DATA_FILE))
    return old


# Dense tasks.


def test_predicting_own_images_prepared_the_whole_dataset_again(dense_run, run_main, tmp_path):
    images = draw_images(tmp_path / "mine")
    run_main(*dense_flags(dense_run), "--mode=predict", f"--images={images}", "--checkpoint=best")
    found = {path.name for path in (dense_run / "run" / "figures" / "mine").iterdir()}
    assert found == {f"{i}.{suffix}" for i in range(3) for suffix in ("npz", "png")}
    assert not (dense_run / "prepared").exists()


def test_a_run_keeps_sizes_and_classes_of_its_dataset(dense_run):
    record = workdir.read_data(dense_run / "run")
    assert record == DataRecord("toy", (8, 12), ("a", "b"), {"toy": {"train": 11, "val": 7}}, {}, {"toy": "toy"})
    config = toy_config.get_config()
    config.data.data_dir, config.duration = str(dense_run / "prepared"), "8 epochs"
    assert Experiment.from_config(config, record).total_steps == 22  # 8 x 11 examples in batches of 4
    with pytest.raises(ValueError, match="number of training examples of toy is unknown until it is prepared"):
        _ = Experiment.from_config(config).total_steps


def test_a_record_of_another_dataset_is_named(dense_run, run_main):
    flags = (f"--config={ROOT}/configs/streets.py:smoke", f"--workdir={dense_run / 'run'}", "--mode=summary")
    with pytest.raises(SystemExit, match=r"is not the dataset that the run was trained on .*: name: 'toy' there, 'str"):
        run_main(*flags)


def test_resuming_on_another_dataset_is_refused(dense_run):
    record = workdir.read_data(dense_run / "run")
    workdir.claim_data(dense_run / "run", record, write=True)
    other = dataclasses.replace(record, examples={"toy": {"train": 12, "val": 7}})
    with pytest.raises(workdir.WorkdirError, match=r"(?s)was trained on .*:\n  examples\.toy\.train: 11 there, 12 he"):
        workdir.claim_data(dense_run / "run", other, write=True)
    # Of the same sizes and classes, but from another layout of the raw data.
    other = dataclasses.replace(record, variants={"toy": "toy-authors"})
    with pytest.raises(workdir.WorkdirError, match=r"variants\.toy: 'toy' there, 'toy-authors' here"):
        workdir.claim_data(dense_run / "run", other, write=True)
    assert workdir.read_data(dense_run / "run") == record


def test_a_record_without_results_belongs_to_no_run(tmp_path):
    first = DataRecord("toy", (8, 12), ("a",), {"toy": {"train": 11}}, {}, {"toy": "toy"})
    second = dataclasses.replace(first, classes=("b",))
    for record in (first, second):
        workdir.claim_data(tmp_path / "run", record, write=True)
        assert workdir.read_data(tmp_path / "run") is None
    assert DataRecord.from_json((tmp_path / "run" / workdir.DATA_FILE).read_text()) == second


@pytest.mark.slow
def test_export_asked_for_the_raw_data(tmp_path, run_main, capsys):
    write_mat(tmp_path / "raw", frames())
    common = (
        f"--config={ROOT}/configs/nyuv2.py:smoke,arch=split,width=0.03",
        *(f"--config.data.raw_dir={tmp_path / 'raw'}", f"--config.data.data_dir={tmp_path / 'prepared'}"),
        *(f"--workdir={tmp_path / 'run'}", "--config.batch_size=4", "--config.eval.batch_size=4"),
        "--config.compilation_cache=",
    )
    run_main(*common)
    run_main(*common, "--mode=export", f"--output={tmp_path / 'with.npz'}")
    for name in ("raw", "prepared"):
        shutil.rmtree(tmp_path / name)
    run_main(*common, "--mode=export", f"--output={tmp_path / 'without.npz'}")
    expected, found = (files.read(tmp_path / f"{name}.npz") for name in ("with", "without"))
    assert expected.keys() == found.keys()
    assert all((expected[name] == found[name]).all() for name in expected)
    run_main(*common, "--mode=predict", f"--images={draw_images(tmp_path / 'images')}")
    assert len(list((tmp_path / "run" / "figures" / "images").glob("*.npz"))) == 3
    capsys.readouterr()
    run_main(*common, "--mode=summary")
    assert "semantic 13" in capsys.readouterr().out
    for mode in ("eval", "predict"):
        message = (
            rf"(?s)--mode={mode} needs the dataset\. NYUv2 is not prepared .*Without the dataset, --mode=predict --im"
        )
        with pytest.raises(SystemExit, match=message):
            run_main(*common, f"--mode={mode}")
    assert not (tmp_path / "prepared").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["streets", pytest.param("mini_decathlon", marks=pytest.mark.long)])
def test_the_readmes_commands_work_without_data(name, tmp_path):
    environment = {**os.environ, "XLA_FLAGS": xla_flags(devices=1), "JAX_PLATFORMS": "cpu"}

    def call(*flags):
        command = [sys.executable, "-m", "mtan_jax.main", f"--config=configs/{name}.py:smoke", *flags]
        command += [f"--workdir={tmp_path / 'run'}", f"--config.data.data_dir={tmp_path / 'prepared'}"]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    call()
    shutil.rmtree(tmp_path / "prepared")
    call("--mode=predict", f"--images={draw_images(tmp_path / 'images')}")
    assert list((tmp_path / "run" / "figures" / "images").iterdir())
    assert "ratio" in call("--mode=summary")
    assert not (tmp_path / "prepared").exists()


# Sets of labelled images.


def test_own_images_of_a_run_on_sets_were_refused(sets_run, run_main):
    run_main(*sets_flags(sets_run), "--mode=predict", f"--images={sets_run / 'images'}", "--count=3")
    folder = sets_run / "run" / "figures"
    expected = {
        line["id"].removeprefix("mine/val/").replace("/", "_"): line
        for line in json.loads((folder / "val" / "mine.json").read_text())
    }
    for name, classes in (("mine", ("cat", "dog")), ("yours", ("a", "b", "c"))):
        lines = json.loads((folder / "images" / f"{name}.json").read_text())
        assert [line["id"] for line in lines] == sorted(expected)
        assert all(line["predicted"] in classes and line["class"] is None for line in lines)
        assert (folder / "images" / f"{name}.png").stat().st_size > 1000
        if name == "mine":
            assert [line["predicted"] for line in lines] == [expected[line["id"]]["predicted"] for line in lines]
            np.testing.assert_allclose(
                [line["probability"] for line in lines],
                [expected[line["id"]]["probability"] for line in lines],
                atol=2e-4,  # they are rounded to 4 digits
            )
    assert not (sets_run / "prepared").exists()


def test_one_picture_counts_once_whatever_the_number_of_sets(sets_run, run_main, caplog, tmp_path):
    # Named after a fault: "wrote the classes of 2 images" of one picture, for two sets.
    for i, text in ((0, "1 image"), (1, "2 images")):
        (tmp_path / f"{i}.jpg").write_bytes(drawn(i))
        run_main(*sets_flags(sets_run), "--mode=predict", f"--images={tmp_path}")
        assert f"wrote the classes of {text} to " in caplog.text


def test_the_summary_of_a_run_on_folders_asked_for_the_folders(sets_run, run_main, capsys):
    *common, run = sets_flags(sets_run)
    run_main(*common, run, "--mode=summary")
    assert "mine 2, yours 3" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"(?s)the dataset 'mine' is not prepared .*name its --workdir"):
        run_main(*common, "--mode=summary")
    with pytest.raises(SystemExit, match=r"(?s)the dataset 'mine' is not prepared .*nowhere holds no trained run"):
        run_main(*common, f"--workdir={sets_run / 'nowhere'}", "--mode=summary")


@pytest.mark.parametrize("mode", ["eval", "predict"])
def test_a_mode_that_needs_data_says_what_works_without(mode, sets_run, run_main):
    message = rf"(?s)--mode={mode} needs the dataset\. Visual Decathlon: the dataset 'mine' .*Without the dataset, --m"
    with pytest.raises(SystemExit, match=message):
        run_main(*sets_flags(sets_run), f"--mode={mode}")


def test_an_older_run_needs_its_data_or_says_how_to_do_without(sets_run, run_main):
    copy_without_record(sets_run)
    predict = ("--mode=predict", f"--images={sets_run / 'images'}")
    with pytest.raises(SystemExit, match=r"(?s)the dataset 'mine'.*old_run/data\.json, which older versions did not"):
        run_main(*sets_flags(sets_run, "old_run"), *predict)
    run_main(*sets_flags(sets_run, "old_run", "kept"), *predict)
    run_main(*sets_flags(sets_run), *predict)
    with_data, without = (
        json.loads((sets_run / run / "figures" / "images" / "mine.json").read_text()) for run in ("old_run", "run")
    )
    assert with_data == without


def test_statistics_of_an_older_run_are_not_taken_to_be_0_and_1(sets_run, run_main, tmp_path):
    """The raw folders alone tell the classes, but not how images are normalised."""
    copy_without_record(sets_run)
    for name, counts in COUNTS.items():
        write_folders(tmp_path / "raw", name, counts)
    raw, data = (f"--config.data.{name}_dir={tmp_path / name}" for name in ("raw", "data"))
    run_main(*sets_flags(sets_run, "old_run"), raw, data, "--mode=predict", f"--images={sets_run / 'images'}")
    assert any((tmp_path / "data").iterdir())  # prepared for the statistics
    run_main(*sets_flags(sets_run), "--mode=predict", f"--images={sets_run / 'images'}")
    again, expected = (
        json.loads((sets_run / run / "figures" / "images" / "mine.json").read_text()) for run in ("old_run", "run")
    )
    assert again == expected


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.data.options.image_size=(40, 40)", r"image_size: \(32, 32\) there, \(40, 40\) here"),
        ("--config.tasks=('mine', 'theirs')", r"sets: \('mine', 'yours'\) there, \('mine', 'theirs'\) here"),
    ],
)
def test_a_record_that_does_not_fit_the_configuration_is_named(flag, message, sets_run, run_main):
    with pytest.raises(SystemExit, match=rf"is not the dataset that the run was trained on .*: {message}"):
        run_main(*sets_flags(sets_run), flag, "--mode=summary")


def test_data_with_other_classes_than_those_trained_on_are_refused(sets_run):
    record = workdir.read_data(sets_run / "run")
    mine = dataclasses.replace(record.sets["mine"], classes=("cat", "wolf"))
    config = runpy.run_path(str(ROOT / "configs" / "decathlon.py"))["get_config"](SETS)
    config.data.options.layout, config.data.data_dir = "folders", str(sets_run / "kept")
    Experiment.from_config(config, record).data.prepare()
    other = Experiment.from_config(config, dataclasses.replace(record, sets={**record.sets, "mine": mine}))
    with pytest.raises(ValueError, match=r"sets\.mine\.classes: \('cat', 'wolf'\) there, \('cat', 'dog'\) here"):
        other.data.prepare()


def test_a_run_takes_over_the_network_of_one_whose_data_are_gone(sets_run, tmp_path):
    write_folders(tmp_path / "raw", "theirs", COUNTS["yours"])
    config = runpy.run_path(str(ROOT / "configs" / "decathlon.py"))["get_config"](SETS.replace("mine+yours", "theirs"))
    config.data.options.layout, config.data.raw_dir = "folders", str(tmp_path / "raw")
    config.data.data_dir, config.model.init_from = str(tmp_path / "prepared"), str(sets_run / "run")
    experiment = Experiment.from_config(config)
    loaded, shapes = experiment.load_weights(), traverse_util.flatten_dict(dict(experiment.abstract_variables))
    assert shapes.keys() - loaded.keys() == {path for path in shapes if path[1] == "head_theirs"}


# data.json itself.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-2], "Expecting"),
        (lambda text: text.replace('"name": "decathlon"', '"nam": "decathlon"'), "the field 'name' is missing"),
        (lambda text: text.replace('"flip": true', '"flip": 1', 1), r"sets\.mine\.flip is 1; expected true or false"),
        (
            lambda text: text.replace('"train": 9', '"train": "9"', 1),
            "a field has the wrong type: '9'; expected a non-",
        ),
        (
            lambda text: text.replace('"train"', '"training"', 1),
            "the number of training examples of",
        ),
        (lambda text: "[]", "a field has the wrong type"),
    ],
)
def test_a_damaged_record_is_named(change, message, sets_run, tmp_path):
    record = workdir.read_data(sets_run / "run")
    text = record.to_json()
    assert change(text) != text
    shutil.copytree(sets_run / "run" / "checkpoints", tmp_path / "checkpoints")
    path = tmp_path / workdir.DATA_FILE
    path.write_text(text)
    assert workdir.read_data(tmp_path) == record
    path.write_text(change(text))
    with pytest.raises(workdir.WorkdirError, match=rf"data\.json is damaged \({message}"):
        workdir.read_data(tmp_path)
