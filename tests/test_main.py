"""The program as it is called: one message for a mistake, the four modes, a directory of another run."""

import json
import math
import os
import pathlib
import subprocess
import sys

import pytest
from helpers import toy_config
from helpers.compiling import xla_flags

from mtan_jax.reporting import writers
from mtan_jax.weighting import METHODS

ROOT = pathlib.Path(__file__).parents[1]


def call(*arguments):
    """Runs the program in a process of its own, on one device."""
    environment = {**os.environ, "XLA_FLAGS": xla_flags(devices=1), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "mtan_jax.main", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_missing_raw_data_end_in_one_message(tmp_path):
    result = call("--config=configs/nyuv2.py:smoke", f"--workdir={tmp_path}", f"--config.data.data_dir={tmp_path}")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: NYUv2 is not prepared yet and its raw data are missing or incomplete.")
    assert "nyu_depth_v2_labeled.mat" in result.stderr
    assert "--config.data.raw_dir" in result.stderr
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
    command = "--config=configs/streets.py --workdir=runs/streets"
    for words in (command, "<train|eval|predict|export|summary|plan>", "--images", "--output"):
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
    lines = [line for line in writers.read_metrics(tmp_path / "run" / "metrics.jsonl") if line["split"] == "train"]
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
    logged = writers.read_metrics(tmp_path / "run" / "metrics.jsonl")
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
    with pytest.raises(SystemExit, match=r"batch_size = 6 cannot be divided among 4 devices; 8 would do"):
        run_main(*arguments, "--config.batch_size=6")
    assert writers.read_metrics(tmp_path / "run" / "metrics.jsonl") == logged


@pytest.mark.slow
def test_streets_smoke(tmp_path):
    data = f"--config.data.data_dir={tmp_path / 'data'}"
    result = call("--config=configs/streets.py:smoke", f"--workdir={tmp_path / 'run'}", data)
    assert result.returncode == 0, result.stderr
    lines = writers.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [(line["step"], line["split"]) for line in lines] == [
        *((2, "train"), (2, "val"), (4, "train"), (4, "val"), (4, "val_constant"))
    ]
    assert (tmp_path / "run" / "figures" / "curves.png").exists()
