"""The program as it is called: one message for a mistake, the four modes, a directory of another run."""

import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from helpers import toy_config
from helpers.cityscapes_release import write_release
from helpers.compiling import xla_flags

from mtan_jax import main
from mtan_jax.reporting import metrics_file
from mtan_jax.weighting import METHODS

ROOT = pathlib.Path(__file__).parents[1]


def call(*arguments, cwd=ROOT, **environment):
    """Runs the program in a process of its own, on one device."""
    settings = {"XLA_FLAGS": xla_flags(devices=1), "JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "mtan_jax.main", *map(str, arguments)]
    environment = {**os.environ, **settings, **environment}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_missing_raw_data_end_in_one_message(tmp_path):
    result = call("--config=configs/nyuv2.py:smoke", f"--workdir={tmp_path}", f"--config.data.data_dir={tmp_path}")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: NYUv2 is not prepared in ")
    assert "nyu_depth_v2_labeled.mat" in result.stderr
    assert "--config.data.raw_dir" in result.stderr
    assert f"{tmp_path}/downloads/manual/nyuv2" in result.stderr
    assert "configs/streets.py needs no raw data." in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_name_ends_in_one_message(tmp_path):
    result = call("--config=configs/streets.py:smoke", f"--workdir={tmp_path / 'run'}", "--config.weighting=dwaa")
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: unknown weighting 'dwaa'")
    assert f"known: {', '.join(METHODS)}" in line
    assert not (tmp_path / "run").exists()  # so the corrected command finds nothing in its way


def test_help_shows_how_to_call_it_and_every_mode():
    result = call("--help")
    command = "python -m mtan_jax.main --config=configs/streets.py"
    for words in (command, "<train|eval|predict|export|summary|plan|config>", "--images", "--output"):
        assert words in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 120


def test_summary_needs_no_directory(run_main, capsys):
    run_main(f"--config={ROOT}/configs/cityscapes.py:smoke", "--mode=summary")
    assert "width 0.0625" in capsys.readouterr().out


@pytest.mark.long
def test_auto_lambda_trains_the_scenes(tmp_path, run_main):
    arguments = (
        f"--config={ROOT}/configs/streets.py:smoke",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.data_dir={tmp_path / 'data'}",
        "--config.compilation_cache=",
        "--config.weighting=auto_lambda",
        "--config.log_every=1 steps",
    )
    run_main(*arguments)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["weighting"] == "auto_lambda"
    lines = [line for line in metrics_file.read_metrics(tmp_path / "run" / "metrics.jsonl") if line["split"] == "train"]
    assert all(math.isfinite(line[f"{task}/loss"]) for line in lines for task in ("semantic", "depth", "normal"))
    assert lines[0]["weights/depth"] != lines[-1]["weights/depth"]
    run_main(*arguments)  # a run that is complete


def test_train_then_eval_then_another_configuration(tmp_path, run_main, capsys):
    arguments = (
        f"--config={toy_config.__file__}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.data_dir={tmp_path / 'data'}",
        "--config.tasks=('semantic', 'depth')",
        "--config.weighting=dwa",
    )
    run_main(*arguments)
    logged = metrics_file.read_metrics(tmp_path / "run" / "metrics.jsonl")
    capsys.readouterr()
    run_main(*arguments, "--mode=eval")
    evaluated = json.loads(capsys.readouterr().out)
    last = [line for line in logged if line["split"] == "val"][-1]
    assert evaluated == {name: last[name] for name in evaluated}
    assert {"semantic/miou", "depth/abs_error"} < set(evaluated)
    for mode in ("train", "eval"):
        with pytest.raises(SystemExit) as error:
            run_main(*arguments, "--config.optimizer.learning_rate=0.5", f"--mode={mode}")
        assert "belongs to a run with another configuration:\n  config.optimizer.learning_rate: 0.01" in str(
            error.value
        )
    with pytest.raises(SystemExit, match=r"batch_size=6 is not divisible by 4 devices; use a multiple of 4, such as 8"):
        run_main(*arguments, "--config.batch_size=6")
    assert metrics_file.read_metrics(tmp_path / "run" / "metrics.jsonl") == logged


@pytest.mark.long
def test_streets_smoke(tmp_path):
    data = f"--config.data.data_dir={tmp_path / 'data'}"
    result = call("--config=configs/streets.py:smoke", f"--workdir={tmp_path / 'run'}", data)
    assert result.returncode == 0, result.stderr
    lines = metrics_file.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [(line["step"], line["split"]) for line in lines] == [
        *((2, "train"), (2, "val"), (4, "train"), (4, "val"), (4, "val_constant"))
    ]
    assert (tmp_path / "run" / "figures" / "curves.png").exists()


def test_without_workdir_a_run_goes_to_runs_and_is_found_there_again(tmp_path):
    arguments = (f"--config={toy_config.__file__}", f"--config.data.data_dir={tmp_path / 'data'}")
    trained = call(*arguments, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr.startswith("working directory: runs/toy_config (--workdir=FOLDER names another)")
    logged = metrics_file.read_metrics(tmp_path / "runs" / "toy_config" / "metrics.jsonl")
    evaluated = call(*arguments, "--mode=eval", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    last = [line for line in logged if line["split"] == "val"][-1]
    metrics = json.loads(evaluated.stdout)
    assert metrics == {name: last[name] for name in metrics}
    other = call(*arguments, "--config.seed=1", cwd=tmp_path)
    assert other.returncode == 1
    assert "config.seed: 0 there, 1 here" in other.stderr


@pytest.mark.parametrize(
    ("config", "folder"),
    [
        ("configs/streets.py", "runs/streets"),
        ("configs/streets.py:smoke", "runs/streets-smoke"),
        ("/a/b/my config.py:width=0.5,arch=split", "runs/my-config-width-0.5-arch-split"),
    ],
)
def test_default_workdirs(config, folder):
    assert main.default_workdir(config) == pathlib.Path(folder)


# The configuration of the card, narrow and short, under the card's name.
NARROW = """
import runpy


def get_config(arg=None):
    return runpy.run_path({path!r})["get_config"]("smoke")
"""


def check_card(folder, scenes, **environment):
    """Runs the card's command on a release in TFDS' folder for manual downloads: trains, resumes, evaluates."""
    write_release(folder / "data" / "downloads" / "manual" / "cityscapes", scenes, zips=True)
    options = {"cwd": folder, "TFDS_DATA_DIR": str(folder / "data"), **environment}
    card = "--config=configs/cityscapes.py"
    trained = call(card, **options)
    assert trained.returncode == 0, trained.stderr
    path = folder / "runs" / "cityscapes" / "metrics.jsonl"
    logged = metrics_file.read_metrics(path)
    again = call(card, **options)
    assert again.returncode == 0, again.stderr
    assert "resuming from step" in again.stderr
    assert metrics_file.read_metrics(path) == logged
    evaluated = call(card, "--mode=eval", **options)
    assert evaluated.returncode == 0, evaluated.stderr
    last = [line for line in logged if line["split"] == "val"][-1]
    metrics = json.loads(evaluated.stdout)
    assert metrics == {name: last[name] for name in metrics}
    assert {"semantic/miou", "depth/abs_error"} < set(metrics)


def scenes_of(counts):
    """Scenes of 64x128 pixels for a release of Cityscapes, so many per split."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for _ in range(count):
            yield {
                "split": split,
                "city": "aachen" if split == "train" else "frankfurt",
                "image": rng.integers(0, 256, (64, 128, 3)).astype(np.uint8),
                "semantic": np.repeat(rng.integers(-1, 7, (64, 16)), 8, axis=1).astype(np.int8),
                "inverse_depth": rng.uniform(0.02, 0.2, (64, 128, 1)).astype(np.float32),
                "camera": {"fx": 2262.5, "baseline": 0.209},
            }


@pytest.mark.slow
def test_the_cards_command_trains_resumes_and_evaluates(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "cityscapes.py").write_text(NARROW.format(path=str(ROOT / "configs" / "cityscapes.py")))
    check_card(tmp_path, scenes_of({"train": 8, "val": 3}))


@pytest.mark.long
def test_the_cards_command_at_full_size(tmp_path):
    # One training image: 200 epochs are 25 steps of 8. Half an hour on two cores, and 2 GB of disk.
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    check_card(tmp_path, scenes_of({"train": 1, "val": 1}))
