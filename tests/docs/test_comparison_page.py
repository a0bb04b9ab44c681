"""The page about comparisons: its commands parse, its Python runs, and its flags exist."""

import pathlib
import re

import pytest
from helpers import shell_commands, stored_runs

from mtan_jax.compare import command

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "comparison.md").read_text()


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Runs of a baseline and two weighting methods in `runs/`."""
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        for task in ("semantic", "depth", "normal"):
            values = stored_runs.change(stored_runs.of_task(stored_runs.STL, task), 1 + 0.01 * seed)
            folder = tmp_path / "runs" / f"single-{task}-{seed}"
            stored_runs.write(folder, values, seed=seed, tasks=(task,), model__arch="single")
        for weighting in ("equal", "dwa"):
            values = stored_runs.change(stored_runs.LS, 1 - 0.01 * seed)
            stored_runs.write(tmp_path / "runs" / f"{weighting}-{seed}", values, seed=seed, weighting=weighting)
    return tmp_path


def test_python(runs, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(block, names)
    assert "arch=mtan weighting=dwa" in capsys.readouterr().out
    assert (runs / "table.tex").is_file()
    assert (runs / "figures" / "metrics.png").is_file()
    for frame in re.search(r"data frames: (.*)", block)[1].split(", "):
        assert len(getattr(names["comparison"], frame)) > 0


def test_commands(runs, capsys):
    blocks = "".join(shell_commands.indented_blocks(PAGE))
    lines = [words for words in shell_commands.commands(blocks) if words[:3] == ["python", "-m", "mtan_jax.compare"]]
    assert len(lines) == 2
    for words in lines:
        found = [str(path) for path in sorted(runs.glob("runs/*"))]
        command.main([*found, *(word for word in words[3:] if word.startswith("--"))])
        assert "arch=mtan weighting=dwa" in capsys.readouterr().out


def test_flags_exist():
    known = {flag for action in command.make_parser()._actions for flag in action.option_strings}
    named = set(re.findall(r"`(--[a-z]+)", PAGE))
    assert named <= known
    assert known - named == {"-h", "--help", "--columns", "--split"}
