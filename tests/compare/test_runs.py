"""Finding and reading working directories."""

import os

import pytest
from helpers import stored_runs

from mtan_jax.compare.errors import ComparisonError
from mtan_jax.compare.runs import CONFIG_FILE, DATA_FILE, StoredRun, read_runs
from mtan_jax.training import workdir


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "sweep/x/c"):
        stored_runs.write(tmp_path / name, {"depth/abs_error": 0.5}, seed=len(name))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("")
    return tmp_path


def test_file_names_are_those_of_training():
    assert (CONFIG_FILE, DATA_FILE) == (workdir.CONFIG_FILE, workdir.DATA_FILE)


def test_patterns_and_folders_of_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    runs, problems = read_runs(["[ab]", "sweep", folder / "a"])
    assert [run.name for run in runs] == ["a", "b", "sweep/x/c"]
    assert [run.seed for run in runs] == [1, 1, 9]
    assert problems == []
    assert {run.name for run in read_runs([folder])[0]} == {f"{folder}/{name}" for name in ("a", "b", "sweep/x/c")}


def test_rows_and_configuration_are_read(folder):
    (run,), _ = read_runs([folder / "a"])
    assert run.config["optimizer.schedule"] == "halve"
    assert run.data["examples"] == {"nyuv2": {"train": 795, "val": 654}}
    assert run.tasks == ("semantic", "depth", "normal")
    values = [row["depth/abs_error"] for row in run.rows_of("val")]
    assert values == pytest.approx([0.515, 0.51, 0.505, 0.5], rel=1e-12)


def test_folders_without_runs_are_named(folder, monkeypatch):
    monkeypatch.chdir(folder)
    runs, problems = read_runs(["a", "notes", "notes/todo.txt", "b*c*"])
    assert len(runs) == 1
    assert problems == [
        "notes contains no config.json, nor do its folders, so it is left out; give working directories of runs",
        "notes/todo.txt is not a folder, so it is left out; give working directories of runs",
        "b*c* matches no file or folder",
    ]
    with pytest.raises(ComparisonError, match=r"there is no run to compare; .*\n  notes contains no config\.json"):
        read_runs(["notes"])


def test_a_folder_whose_name_is_a_pattern(folder):
    os.rename(folder / "a", folder / "run[1]")
    (run,), _ = read_runs([folder / "run[1]"])
    assert run.name == f"{folder}/run[1]"


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("config.json", "{", "config.json is damaged (Expecting"),
        ("config.json", "[]", "config.json is damaged (it holds no JSON object)"),
        ("config.json", '{"seed": 0}', "config.json has no field tasks, duration, batch_size"),
        ("data.json", "", "data.json is damaged"),
        ("metrics.jsonl", '{"step": 1}\n{"step": 2}\n', "line 1 is damaged (it has no step or no split)"),
    ],
)
def test_damaged_runs_are_left_out(folder, file, text, problem):
    (folder / "a" / file).write_text(text)
    runs, problems = read_runs([folder / "a", folder / "b"])
    assert [run.name for run in runs] == [f"{folder}/b"]
    assert problems[0].startswith(f"{folder}/a is left out: ")
    assert problem in problems[0]


def test_a_run_that_has_just_started(folder):
    (folder / "a" / "metrics.jsonl").unlink()
    assert read_runs([folder])[1] == [f"{folder}/a is left out: it has no metrics.jsonl yet"]


def test_buckets_are_refused():
    with pytest.raises(ComparisonError, match=r"gs://bucket/x is not a local path; copy config\.json"):
        read_runs(["gs://bucket/x"])


@pytest.mark.parametrize(
    ("duration", "step", "epoch", "complete"),
    [
        # 10 examples, batches of 4: an epoch has 2.5 steps, and 3 epochs end within step 8.
        ("8 steps", 7, 2.8, False),
        ("8 steps", 8, 3.2, True),
        ("3 epochs", 7, 2.8, False),
        ("3 epochs", 8, 3.2, True),
        ("1 epoch", 3, 1.2, True),
        ("29 examples", 7, 2.8, False),
        ("29 examples", 8, 3.2, True),
        ("28 examples", 7, 2.8, True),
    ],
)
def test_completeness(duration, step, epoch, complete):
    rows = [{"step": step, "epoch": epoch, "split": split} for split in ("train", "val")]
    config = {"duration": duration, "batch_size": 4}
    assert StoredRun("x", config, None, rows).is_complete == complete
    assert not StoredRun("x", config, None, rows[:1]).is_complete  # the last evaluation is missing


def test_rounding_of_epochs_does_not_matter():
    # 3 steps of 1 of 10 examples are 0.3 epochs, but 3 / 10 and 3 * 0.1 round differently.
    config = {"duration": "0.3 epochs", "batch_size": 1}
    for epoch in (3 / 10, 3 * 0.1, 0.29999999999999993):
        assert StoredRun("x", config, None, [{"step": 3, "epoch": epoch, "split": "val"}]).is_complete
    assert not StoredRun("x", config, None, [{"step": 2, "epoch": 0.2, "split": "val"}]).is_complete
