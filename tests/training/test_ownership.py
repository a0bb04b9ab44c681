"""A working directory has one training run at a time, whoever starts another, and is open to those who only read."""

import json
import logging
import shutil
import signal
import time

import pytest
from helpers import whole_run

from mtan_jax.reporting.metrics_file import METRICS_FILE
from mtan_jax.reporting.sinks import MetricWriter
from mtan_jax.runtime import lock
from mtan_jax.runtime.checkpoint_folder import CheckpointFolder
from mtan_jax.training import loop
from mtan_jax.training import report as report_module
from mtan_jax.training.workdir import LOCK_FILE, WorkdirError, own


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    return whole_run.Run("toy_config", folder / "data", folder / "output", duration="5 steps")


def start_two(run, folder, output):
    """Two programs started at once: whether each ended well, and what it wrote to stderr."""
    rivals = [run.copy(output / f"rival{i}") for i in range(2)]
    started = [rival.start(folder)[0] for rival in rivals]
    for process in started:
        process.wait(120)
    texts = [rival.read_output(0)[1] for rival in rivals]
    return sorted(zip([process.returncode for process in started], texts, strict=True), key=lambda pair: pair[0])


def check_one_owner(run, experiment, straight, folder, output):
    (code, err), (other_code, other_err) = start_two(run, folder, output)
    assert (code, other_code) == (0, 1), err + other_err
    assert "training toy for 5 steps" in err
    (line,) = other_err.splitlines()
    assert line.startswith(f"error: the working directory {folder} is in use by process ")
    assert " on host " in line
    assert "(started 20" in line
    assert line.endswith("Wait until it ends, stop it, or use another --workdir.")
    whole_run.assert_same_run(experiment, folder, straight)
    assert len(list(folder.glob("events.*"))) == 1


def test_two_starts_in_the_same_second_have_one_owner(run, experiment, straight, tmp_path):
    check_one_owner(run, experiment, straight, tmp_path / "run", tmp_path)


@pytest.mark.long
def test_twenty_times_two_starts_in_the_same_second_have_one_owner(run, experiment, straight, tmp_path):
    for i in range(20):
        folder = tmp_path / f"run{i}"
        if i % 2:  # refused before the configuration is looked at
            folder.mkdir()
        check_one_owner(run, experiment, straight, folder, tmp_path)


def test_a_second_run_neither_writes_nor_prepares_anything(run, experiment, tmp_path):
    folder = tmp_path / "run"
    with own(folder):
        before = {path: path.read_bytes() for path in folder.iterdir()}
        rival = whole_run.Run("toy_config", tmp_path / "new_data", tmp_path / "output")
        (process,) = rival.start(folder)
        assert process.wait(120) == 1
        assert f"the working directory {folder} is in use by process" in rival.read_output(0)[1]
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
        assert not (tmp_path / "new_data").exists()


def test_a_directory_that_is_trained_is_open_to_readers_alone(run, tmp_path, run_main, capsys):
    options = ["--config.duration=100000 steps", "--config.checkpoint.keep=50"]
    folder = tmp_path / "run"
    arguments = [*run.arguments(folder), *options, "--config.compilation_cache="]
    (process,) = run.start(folder, *options)
    try:
        while not whole_run.checkpoint_steps(folder):
            assert process.poll() is None, run.read_output(0)
        run_main(*arguments, "--mode=eval")
        assert "normal/median" in json.loads(capsys.readouterr().out)
        run_main(*arguments, "--mode=predict", "--count=1")
        assert list(folder.glob("figures/val/*.png"))
        with pytest.raises(SystemExit, match=f"in use by process {process.pid} "):
            run_main(*arguments)
        with pytest.raises(lock.LockedError, match=f"in use by process {process.pid} "):
            loop.train(run.experiment(), folder)
        assert process.poll() is None
        assert lock.read_owner(folder / LOCK_FILE).pid == process.pid
        process.send_signal(signal.SIGINT)  # an orderly end releases the directory
        assert process.wait(60) == 130
        assert lock.read_owner(folder / LOCK_FILE) is None
    finally:
        whole_run.kill([process])


@pytest.mark.parametrize("change", ["deleted", "moved", "replaced", "now a file"])
def test_a_run_ends_where_its_directory_goes(change, experiment, tmp_path, monkeypatch):
    # Named after a fault: the run made the directory anew, and a second one was let in beside it.
    folder = tmp_path / "run"
    advance = MetricWriter.advance

    def change_at_step_3(writer, step):
        advance(writer, step)
        if step == 3:
            while whole_run.checkpoint_steps(folder) != [2]:  # which is written in the background
                time.sleep(0.01)
            shutil.rmtree(folder) if change == "deleted" else folder.rename(tmp_path / "moved")
            if change == "now a file":
                folder.write_text("")
            if change == "replaced":
                folder.mkdir()
                (folder / LOCK_FILE).write_text("")
                (folder / f"{LOCK_FILE}.owner").write_text("of another run")

    monkeypatch.setattr(MetricWriter, "advance", change_at_step_3)
    with pytest.raises(WorkdirError, match=r"was deleted, moved or replaced during training"):
        whole_run.train_here(experiment, folder)
    assert folder.exists() == (change in ("replaced", "now a file"))
    if change == "replaced":
        assert {path.name for path in folder.iterdir()} == {LOCK_FILE, f"{LOCK_FILE}.owner"}


@pytest.mark.parametrize("change", ["deleted", "now a file"])
def test_a_directory_that_goes_while_a_checkpoint_is_written_is_what_the_run_reports(
    change, experiment, tmp_path, monkeypatch
):
    # Named after a fault: CheckpointError, "make the folder writable and run the same command again".
    folder = tmp_path / "run"
    delete = CheckpointFolder.delete

    def delete_after_change(files, steps):
        if folder.is_dir():
            folder.rename(tmp_path / "moved")
            if change == "now a file":
                folder.write_text("")
        delete(files, steps)

    monkeypatch.setattr(CheckpointFolder, "delete", delete_after_change)
    with pytest.raises(WorkdirError, match=r"was deleted, moved or replaced during training"):
        whole_run.train_here(experiment, folder)


@pytest.mark.parametrize("dropped", ["val_constant", "train", "val", None])
def test_the_report_needs_no_line_of_the_metrics_file(dropped, experiment, straight, tmp_path, monkeypatch, caplog):
    # Named after a bug: a second run that cut the file made the first end in KeyError: 'val_constant'.
    folder = shutil.copytree(straight, tmp_path / "run")
    monkeypatch.setattr(experiment.config.eval, "average_last", 2, raising=False)
    caplog.set_level(logging.INFO)
    read = report_module.read_metrics

    def read_fewer(path):
        return [line for line in read(path) if dropped is not None and line["split"] != dropped]

    monkeypatch.setattr(report_module, "read_metrics", read_fewer)
    loop.train(experiment, folder)
    report = caplog.text
    assert "split val after 5 steps" in report
    assert "mean over the last 2 evaluations" in report
    assert json.loads((folder / METRICS_FILE).read_text().splitlines()[-1])["split"] == "val_mean"
