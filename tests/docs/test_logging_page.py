"""The code on the page about logging runs as it stands, with a stand-in for Weights & Biases."""

import pathlib
import re
import sys
import types

import pandas as pd
import pytest
from helpers import shell_commands

import mtan_jax as mtan

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "logging.md").read_text()


@pytest.mark.slow
def test_the_page_runs(tmp_path, monkeypatch):
    rows, finished = [], []
    service = types.SimpleNamespace(
        log=lambda row, step: rows.append((step, row)), finish=lambda: finished.append(True)
    )
    wandb = types.ModuleType("wandb")
    wandb.init = lambda **options: service
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for i, block in enumerate(blocks):
        # Each block trains from the beginning.
        exec(block.replace("runs/logged", f"runs/logged{i}"), names)
    assert isinstance(names["metrics"], pd.DataFrame)
    logged = mtan.Run.open(names["config"], tmp_path / "runs" / "logged1").metrics
    assert [(step, next(iter(row)).split("/")[0]) for step, row in rows] == [(r["step"], r["split"]) for r in logged]
    assert rows[0][1]["train/semantic/loss"] == logged[0]["semantic/loss"]
    assert finished == [True]


@pytest.mark.long
def test_the_profile_is_written(tmp_path, run_main, monkeypatch):
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    (arguments,) = filter(None, map(shell_commands.program_arguments, shell_commands.commands(block)))
    arguments[0] = arguments[0].replace("configs", f"{ROOT}/configs")
    monkeypatch.chdir(tmp_path)
    run_main(*arguments, f"--config.data.data_dir={tmp_path / 'data'}", "--config.compilation_cache=")
    assert list((tmp_path / "runs" / "profiled" / "profile").rglob("*.xplane.pb"))
