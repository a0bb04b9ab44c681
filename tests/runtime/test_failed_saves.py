"""A run that cannot save ends at once, as a user sees it: one message, exit code 1, no thread that stays."""

import os
import shutil
import signal
import subprocess
import time

import pytest
from helpers import whole_run

SECONDS = 20  # on a busy machine; threads of orbax used to keep the process for 300


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    options = {"duration": "1000000 steps", "log_every": "1000 steps", "eval.every": "1000000 steps"}
    options |= {"checkpoint.every": "10 steps", "checkpoint.keep": 1000, "weighting": "equal"}
    return whole_run.Run("toy_config", folder / "data", folder, **options)


@pytest.fixture
def workdir(tmp_path):
    """A working directory whose checkpoints lie on a disk of 1 MB: needs the right to mount one."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield tmp_path / "run"
    subprocess.run(["umount", folder], check=True)


def wait_for_checkpoint(started, folder, seconds=240):
    deadline = time.monotonic() + seconds
    while not whole_run.checkpoint_steps(folder):
        assert all(process.poll() is None for process in started), "ended by itself"
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.01)


def replace_by_a_file(folder):
    (folder / "checkpoints").rename(folder / "moved")
    (folder / "checkpoints").write_text("")


def test_folder_that_vanishes_ends_the_run_at_once(run, tmp_path):
    started = run.start(tmp_path)
    wait_for_checkpoint(started, tmp_path)
    replace_by_a_file(tmp_path)
    [err] = run.fail(started, SECONDS)
    last = err.splitlines()[-1]
    assert last.startswith(f"error: could not write a checkpoint in {tmp_path / 'checkpoints'}: ")
    assert last.endswith("The folder no longer exists; run the same command again")
    assert "Traceback" not in err
    assert err.count("error") == 1
    assert started[0].returncode == 1


@pytest.mark.slow
def test_full_disk_ends_the_run_at_once(run, workdir):
    started = run.start(workdir)
    wait_for_checkpoint(started, workdir)
    deadline = time.monotonic() + 120
    while shutil.disk_usage(workdir / "checkpoints").free and started[0].poll() is None:
        assert time.monotonic() < deadline, "the disk does not fill"
        time.sleep(0.05)
    [err] = run.fail(started, SECONDS)
    newest = whole_run.checkpoint_steps(workdir)[-1]
    assert err.splitlines()[-1].endswith(
        f"The checkpoint of step {newest} remains; free some space and run the same command again"
    )
    assert "No space left on device" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.long
def test_failed_save_and_ctrl_c_end_the_run_at_once(run, tmp_path):
    started = run.start(tmp_path)
    wait_for_checkpoint(started, tmp_path)
    replace_by_a_file(tmp_path)
    started[0].send_signal(signal.SIGINT)
    [err] = run.fail(started, SECONDS)
    assert err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in err
    assert started[0].returncode == 1


@pytest.mark.slow
def test_failed_save_of_two_processes_ends_both(run, tmp_path):
    started = run.start(tmp_path, processes=2)
    wait_for_checkpoint(started, tmp_path)
    replace_by_a_file(tmp_path)
    err, _ = run.fail(started, 60)
    assert f"could not write a checkpoint in {tmp_path / 'checkpoints'}" in err
