"""Checkpoints where the file system, the user or another process does something unusual."""

import contextlib
import errno
import logging
import os
import pathlib
import shutil
import subprocess
import threading
import time

import pytest
from helpers.checkpoints import (
    METRIC,
    folders,
    largest_file,
    make_state,
    open_checkpoints,
    save_all,
    small_files,
    template,
)

from mtan_jax.runtime import orbax_compat
from mtan_jax.runtime.checkpoint import DAMAGED_FOLDER, FOLDER, CheckpointError
from mtan_jax.training import workdir


def messages(caplog):
    return [record.getMessage() for record in caplog.records]


# Paths.


@pytest.mark.parametrize("name", ["run[1]", "run*", "run?", "new\nline"])
def test_workdir_with_characters_of_patterns(name, tmp_path):
    save_all(tmp_path / name, {1: 0.5, 2: 0.9, 3: 0.1, 4: 0.1}, keep=1)
    assert folders(tmp_path / name) == [2, 4]
    with open_checkpoints(tmp_path / name, read_only=True) as checkpoints:
        assert checkpoints.restore(template()).step == 4
        assert checkpoints.restore(template(), "best").step == 2


@pytest.mark.parametrize("name", ["back\\slash", "caf\udce9", "gs:", "/".join(["d" * 250] * 16)])
def test_workdir_that_cannot_hold_checkpoints_is_refused_before_anything_is_written(name, tmp_path, run_main):
    with pytest.raises(SystemExit, match=r"checkpoints cannot be stored in .*; use another --workdir"):
        run_main(
            "--config=tests/helpers/toy_config.py", f"--workdir={tmp_path / name}", f"--config.data.data_dir={tmp_path}"
        )
    assert not list(tmp_path.iterdir())


def test_relative_workdir_and_another_current_folder(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with open_checkpoints(pathlib.Path("run")) as checkpoints:
        os.chdir(tmp_path / "elsewhere")
        checkpoints.save(make_state(1), None)
        checkpoints.save(make_state(2), None)
    assert folders(tmp_path / "run") == [1, 2]


def test_symlinked_workdir(tmp_path):
    (tmp_path / "real[1]").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real[1]")
    save_all(tmp_path / "link", {1: 0.5})
    for name in ("link", "real[1]"):
        with open_checkpoints(tmp_path / name) as checkpoints:
            assert checkpoints.restore(template()).step == 1


def test_workdir_beside_the_target_of_a_link(tmp_path):
    (tmp_path / "disk" / "runs").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "runs")
    save_all(tmp_path / "link" / ".." / "run", {1: 0.5})
    assert folders(tmp_path / "disk" / "run") == [1]
    assert (tmp_path / "disk" / "run" / FOLDER / "1" / "state" / "manifest.ocdbt").exists()
    assert not (tmp_path / "run").exists()


# Reading back.


def spoil(path):
    target = largest_file(path)
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(data)


@pytest.fixture
def spoiled_steps(monkeypatch):
    """A disk that does not keep what is written: the steps of which a bit is wrong."""
    steps, original = set(), orbax_compat.write

    def write(path, *arguments):
        original(path, *arguments)
        if int(path.name.split(".")[0]) in steps:
            spoil(path)

    monkeypatch.setattr(orbax_compat, "write", write)
    return steps


def test_first_checkpoint_is_read_back(spoiled_steps, tmp_path):
    spoiled_steps.add(1)
    with pytest.raises(CheckpointError, match=rf"first checkpoint was written to {tmp_path}.*cannot be read back"):
        save_all(tmp_path, {1: None})
    assert folders(tmp_path) == []
    spoiled_steps.clear()
    save_all(tmp_path, {1: None, 2: None})
    spoiled_steps.add(3)
    with pytest.raises(CheckpointError, match="cannot be read back"):
        save_all(tmp_path, {3: None})  # the first after a start
    assert folders(tmp_path) == [1, 2]


def test_only_the_first_checkpoint_is_read_back(tmp_path, monkeypatch):
    paths, read = [], orbax_compat.read
    monkeypatch.setattr(
        orbax_compat, "read", lambda path, *arguments: (paths.append(path.name), read(path, *arguments))[1]
    )
    save_all(tmp_path, {1: 0.5, 2: None, 3: 0.1})
    assert paths == ["1.saving-tmp"]


# Old checkpoints that cannot be deleted.


@contextlib.contextmanager
def busy_file_inside(folder):
    """A mounted file in a folder, which cannot be deleted, even by root; as NFS keeps files that are open."""
    path = folder / "state" / ".nfs0001"
    path.touch()
    command = ["mount", "--bind", path, path]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command, check=False).returncode:
        pytest.skip("a file cannot be mounted here")
    try:
        yield
    finally:
        [left] = folder.parent.glob("**/.nfs0001")
        subprocess.run(["umount", left], check=True)


def test_old_checkpoint_with_a_busy_file_is_left_with_one_warning(tmp_path, caplog):
    save_all(tmp_path, {1: 0.1}, keep=1)
    with busy_file_inside(tmp_path / FOLDER / "1"), open_checkpoints(tmp_path, keep=1) as checkpoints:
        for step in (2, 3, 4):
            checkpoints.save(make_state(step), {METRIC: step / 10})
        assert checkpoints.steps() == [4]
        assert checkpoints.best_step() == 4
        assert checkpoints.restore(template()).step == 4
    [warning] = messages(caplog)
    assert f"cannot delete the old checkpoint {tmp_path / FOLDER / '1.deleted-tmp'}" in warning
    assert "busy" in warning
    save_all(tmp_path, {5: 0.5}, keep=1)  # once it can be deleted, it is
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["5"]


def refuse_to_delete(path, ignore_errors=False, **options):
    if not ignore_errors:
        raise OSError(errno.EBUSY, "Device or resource busy", str(path))


def test_old_checkpoint_that_cannot_be_deleted_does_not_stop_training(tmp_path, caplog, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse_to_delete)
        save_all(tmp_path, {1: 0.1, 2: 0.2, 3: 0.3}, keep=1)
        with open_checkpoints(tmp_path, keep=1) as checkpoints:
            assert checkpoints.restore(template()).step == checkpoints.restore(template(), "best").step == 3
    assert len(messages(caplog)) == 2  # one for each start
    assert all("Device or resource busy" in message for message in messages(caplog))


def test_old_checkpoint_that_cannot_be_renamed_stays_whole(tmp_path, caplog, monkeypatch):
    rename = pathlib.Path.rename

    def refuse(path, target):
        if path.name == "1":
            raise OSError(errno.EPERM, "Operation not permitted", str(path))  # as chattr +i
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, "rename", refuse)
    save_all(tmp_path, {1: 0.1, 2: 0.2, 3: 0.3}, keep=1)
    assert folders(tmp_path) == [1, 3]
    [warning] = messages(caplog)
    assert str(tmp_path / FOLDER / "1") in warning
    assert "Operation not permitted" in warning
    with open_checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.restore(template()).step == checkpoints.best_step() == 3
        assert checkpoints.restore(template(), "1").step == 1


def test_leftover_of_a_killed_save_that_cannot_be_deleted_does_not_stop_the_next(tmp_path, caplog, monkeypatch):
    save_all(tmp_path, {1: None, 2: None})
    (tmp_path / FOLDER / "2").rename(tmp_path / FOLDER / "2.saving-tmp")
    shutil.copytree(tmp_path / FOLDER / "1", tmp_path / FOLDER / "2.saving-tmp.orbax-checkpoint-tmp")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse_to_delete)
        save_all(tmp_path, {2: None, 3: None})
    assert folders(tmp_path) == [2, 3]
    assert len(messages(caplog)) == 1


def test_damaged_checkpoint_on_another_disk_than_the_workdir_is_moved_aside(tmp_path, monkeypatch):
    save_all(tmp_path, {1: None, 2: None})
    spoil(tmp_path / FOLDER / "2")
    rename = pathlib.Path.rename

    def rename_on_one_disk(path, target):
        if DAMAGED_FOLDER in target.parts:
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(path))
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, "rename", rename_on_one_disk)
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(template()).step == 1
        assert checkpoints.steps() == [1]
    assert (tmp_path / FOLDER / "2.damaged").is_dir()


def test_half_deleted_checkpoint_is_no_checkpoint(tmp_path, caplog):
    """A kill in the middle of a deletion leaves a folder without the name of a step."""
    save_all(tmp_path, {1: 0.9, 2: 0.1})
    shutil.copytree(tmp_path / FOLDER / "1", tmp_path / FOLDER / "3.deleted-tmp")
    largest_file(tmp_path / FOLDER / "3.deleted-tmp").unlink()
    with open_checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.best_step() == 1
        assert checkpoints.restore(template()).step == 2
    assert (tmp_path / FOLDER / "3.deleted-tmp").is_dir()
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(template()).step == 2
    assert folders(tmp_path) == [1, 2]
    assert not list((tmp_path / FOLDER).glob("*-tmp"))
    assert not (tmp_path / DAMAGED_FOLDER).exists()
    assert not messages(caplog)


# Other things in the folder.


def test_stray_files_are_ignored_and_stay(tmp_path, caplog):
    save_all(tmp_path, {1: 0.5, 2: 0.4})
    folder = tmp_path / FOLDER
    for name in (".DS_Store", ".nfs000000001", "Thumbs.db", "9", "notes-tmp", "3.txt", "\u0665"):
        (folder / name).write_text("x")
    for name in ("lost+found", "best", "007", "1e3", "-1", ".ipynb_checkpoints"):
        (folder / name).mkdir()
    names = {path.name for path in folder.iterdir()}
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.restore(template()).step == 2
        checkpoints.save(make_state(3), {METRIC: 0.1})
        assert checkpoints.best_step() == 1
    assert {path.name for path in folder.iterdir()} == names | {"3"}
    assert not messages(caplog)


def test_stray_file_does_not_claim_a_workdir(tmp_path):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / ".DS_Store").touch()
    (tmp_path / FOLDER / "1.saving-tmp.orbax-checkpoint-tmp").mkdir()
    assert not workdir.holds_results(tmp_path)
    (tmp_path / FOLDER / "1").mkdir()
    assert workdir.holds_results(tmp_path)


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "state/_METADATA", "state/manifest.ocdbt"])
def test_empty_metadata_fall_back(name, tmp_path, caplog):
    save_all(tmp_path, {1: 0.5, 2: 0.4})
    (tmp_path / FOLDER / "2" / name).write_bytes(b"")
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(template()).step == 1
    assert "checkpoint 2" in messages(caplog)[0]


@pytest.mark.parametrize("text", ["", "[]", "3", '{"other": 1}', f'{{"{METRIC}": null}}', f'{{"{METRIC}": NaN}}'])
def test_unusable_metrics_count_as_not_evaluated(text, tmp_path):
    save_all(tmp_path, {1: 0.5, 2: 0.9})
    (tmp_path / FOLDER / "2" / "metrics" / "metrics").write_text(text)
    for read_only in (True, False):
        with open_checkpoints(tmp_path, read_only=read_only) as checkpoints:
            assert checkpoints.best_step() == 1
    save_all(tmp_path, {3: 0.1}, keep=1)
    assert folders(tmp_path) == [1, 3]


def test_checkpoints_is_a_file(tmp_path):
    (tmp_path / FOLDER).write_text("")
    with pytest.raises(CheckpointError, match=f"{tmp_path / FOLDER} cannot be read"):
        open_checkpoints(tmp_path)


# Reading while another process trains.


def test_checkpoint_deleted_while_it_is_read(tmp_path, caplog, monkeypatch):
    save_all(tmp_path, {1: 0.5, 2: 0.9}, keep=1)
    read = orbax_compat.read

    def delete_first(path, *arguments):
        monkeypatch.setattr(orbax_compat, "read", read)
        save_all(tmp_path, {3: 0.95}, keep=1)
        return read(path, *arguments)

    for which in ("newest", "best"):
        shutil.rmtree(tmp_path / FOLDER)
        save_all(tmp_path, {1: 0.5, 2: 0.9}, keep=1)
        monkeypatch.setattr(orbax_compat, "read", delete_first)
        with open_checkpoints(tmp_path, read_only=True) as checkpoints:
            assert checkpoints.restore(template(), which).step == 3
    shutil.rmtree(tmp_path / FOLDER)
    save_all(tmp_path, {2: 0.9}, keep=1)
    monkeypatch.setattr(orbax_compat, "read", delete_first)
    with open_checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.arrays()["step"] == 3
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 2 .*available: \[3\]"):
            checkpoints.restore(template(), "2")
    assert not messages(caplog)


def test_evaluation_beside_training_always_finds_a_checkpoint(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    save_all(tmp_path, {1: 0.1}, keep=1)
    found, shape, done = [], template(), threading.Event()

    def evaluate():
        while not done.is_set():
            with open_checkpoints(tmp_path, keep=1, read_only=True) as checkpoints:
                found.append(int(checkpoints.restore(shape, "best").step))

    reader = threading.Thread(target=evaluate)
    reader.start()
    try:
        save_all(tmp_path, {step: step / 100 for step in range(2, 15)}, keep=1)
    finally:
        done.set()
        reader.join()
    assert len(set(found)) > 2
    assert found == sorted(found)
    assert not messages(caplog)


# Failed saves.


def save_too_much(workdir, then):
    """Saves a checkpoint of step 2 that is too large, and calls `then(checkpoints)` before the end."""
    with small_files(workdir / "limit"), open_checkpoints(workdir) as checkpoints:
        checkpoints.save(make_state(2, 80_000), None)
        then(checkpoints)


def check_for_ten_seconds(checkpoints):
    for _ in range(500):
        checkpoints.check()
        time.sleep(0.02)


def press_ctrl_c(checkpoints):
    raise KeyboardInterrupt


def test_failed_save_shows_without_another_save(tmp_path):
    save_all(tmp_path, {1: None})
    with pytest.raises(CheckpointError, match=r"File too large.*step 1 remains; free some space and run the same"):
        save_too_much(tmp_path, check_for_ten_seconds)
    save_all(tmp_path, {2: None})  # with what was written of it cleared away
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == ["1", "2"]


def test_failed_save_with_ctrl_c_is_reported_too(tmp_path, caplog):
    save_all(tmp_path, {1: None})
    with pytest.raises(KeyboardInterrupt):
        save_too_much(tmp_path, press_ctrl_c)
    [message] = messages(caplog)
    assert "could not write a checkpoint" in message
    assert "step 1 remains" in message


def test_failed_last_save_shows_at_the_end(tmp_path):
    save_all(tmp_path, {1: None})
    with pytest.raises(CheckpointError, match="The checkpoint of step 1 remains"):
        save_too_much(tmp_path, lambda checkpoints: checkpoints.close())


def test_folder_that_vanished_is_named(tmp_path):
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(1), None)
        checkpoints.steps()
        (tmp_path / FOLDER).rename(tmp_path / "moved")
        (tmp_path / FOLDER).write_text("")
        checkpoints.save(make_state(2), None)
        with pytest.raises(CheckpointError, match=f"in {tmp_path / FOLDER}: .*The folder no longer exists"):
            checkpoints.steps()
