"""Checkpoints: which stay, what is in them, and what happens to damaged ones and on a full disk."""

import contextlib
import logging
import os
import shutil
import subprocess

import jax
import numpy as np
import pytest
from helpers.checkpoints import (
    METRIC,
    assert_same_bits,
    folders,
    largest_file,
    make_state,
    open_checkpoints,
    save_all,
    small_files,
    template,
)

from mtan_jax.runtime import parallel
from mtan_jax.runtime.checkpoint import DAMAGED_FOLDER, FOLDER, CheckpointError
from mtan_jax.steps.state import TrainState, Window


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A working directory with checkpoints of steps 2, 4 and 6; step 2 has the best value."""
    workdir = tmp_path_factory.mktemp("three")
    save_all(workdir, {2: 0.5, 4: None, 6: 0.2})
    return workdir


@pytest.fixture
def copy(three, tmp_path):
    return shutil.copytree(three, tmp_path / "copy")


def test_round_trip_keeps_every_bit_and_type(three):
    with open_checkpoints(three) as checkpoints:
        state = checkpoints.restore(template())
    assert_same_bits(state, make_state(6))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"float32", "bfloat16", "int32", "bool"}
    assert all(leaf.sharding.device_set == set(jax.local_devices()) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(("higher_is_better", "best"), [(True, 3), (False, 4)])
def test_newest_and_best_stay(higher_is_better, best, tmp_path):
    metrics = {1: 0.5, 2: None, 3: 0.9, 4: 0.1, 5: None, 6: float("nan"), 7: 0.7}
    save_all(tmp_path, metrics, higher_is_better=higher_is_better)
    assert folders(tmp_path) == [best, 6, 7]
    with open_checkpoints(tmp_path, higher_is_better=higher_is_better) as checkpoints:
        assert checkpoints.steps() == [best, 6, 7]
        assert checkpoints.best_step() == best
        assert checkpoints.restore(template(), "best").step == best
        # What was best before counts after a restart too.
        checkpoints.save(make_state(8), {METRIC: 0.5})
    assert folders(tmp_path) == [best, 7, 8]


def test_newest_stay_where_nothing_was_evaluated(tmp_path):
    save_all(tmp_path, dict.fromkeys((1, 2, 3)), keep=1)
    assert folders(tmp_path) == [3]
    with open_checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match=f"has a value of {METRIC}"):
        checkpoints.restore(template(), "best")


def test_no_checkpoints(tmp_path):
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(template()) is None
        assert checkpoints.restore(template(), "best") is None


def test_steps_and_names_that_are_not_there(three):
    with open_checkpoints(three) as checkpoints:
        assert checkpoints.restore(template(), "4").step == 4
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 5 .*available: \[2, 4, 6\]"):
            checkpoints.restore(template(), "5")
        with pytest.raises(ValueError, match="checkpoint 'last'; expected newest, best, initial or a step"):
            checkpoints.restore(template(), "last")


def test_at_least_one_must_stay(tmp_path):
    with pytest.raises(ValueError, match=r"config\.checkpoint\.keep=0"):
        open_checkpoints(tmp_path, keep=0)


def truncate(folder):
    path = largest_file(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_one_bit(folder):
    path = largest_file(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove_a_file(folder):
    largest_file(folder).unlink()


def empty_all_files(folder):
    """As a file system leaves them that lost its power."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def empty_the_folder(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def break_the_index(folder):
    (folder / "state" / "manifest.ocdbt").write_bytes(b"no manifest")


def forget_the_checksum(folder):
    (folder / "_CHECKPOINT_METADATA").write_text("{")


DAMAGES = [
    truncate,
    flip_one_bit,
    remove_a_file,
    empty_all_files,
    empty_the_folder,
    break_the_index,
    forget_the_checksum,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_falls_back_says_so_and_is_moved_aside(damage, copy, caplog, capfd):
    damage(copy / FOLDER / "6")
    with open_checkpoints(copy) as checkpoints:
        state = checkpoints.restore(template())
        assert_same_bits(state, make_state(4))
        assert checkpoints.steps() == [2, 4]
        assert (copy / DAMAGED_FOLDER / "6").is_dir()
        messages = [record.getMessage() for record in caplog.records]
        assert any("checkpoint 6" in message and "is damaged" in message for message in messages)
        assert any("falling back to checkpoint 4" in message for message in messages)
        # The run goes on, comes to step 6 again and saves it.
        checkpoints.save(make_state(6), {METRIC: 0.3})
    assert folders(copy) == [2, 4, 6]
    with open_checkpoints(copy) as checkpoints:
        assert checkpoints.restore(template()).step == 6
    assert capfd.readouterr() == ("", "")  # what orbax, tensorstore and asyncio say of it is left out


def test_damaged_twice_keeps_both(copy):
    for name in ("6", "6.1"):
        truncate(copy / FOLDER / "6")
        with open_checkpoints(copy) as checkpoints:
            assert checkpoints.restore(template()).step == 4
            checkpoints.save(make_state(6), None)
        assert (copy / DAMAGED_FOLDER / name).is_dir()


def test_damaged_metrics_are_dropped(copy, caplog):
    (copy / FOLDER / "2" / "metrics" / "metrics").write_text('{"sem')
    with open_checkpoints(copy) as checkpoints:
        assert checkpoints.best_step() == 6
        assert checkpoints.restore(template(), "2").step == 2
    assert "the metrics of checkpoint 2 are damaged" in caplog.text


@pytest.mark.parametrize("damage", [(b"0.5", b"0.1"), (b"sem", b"s\xffm"), (b'"depth', b"")])
def test_damaged_metrics_of_the_best_checkpoint_are_read_from_the_log(damage, copy, caplog):
    # Named after a fault: the best checkpoint counted as not evaluated, and was deleted at the next save.
    path = copy / FOLDER / "2" / "metrics" / "metrics"
    before = path.read_bytes()
    path.write_bytes(before.replace(*damage, 1))
    logged = {2: {METRIC: 0.5, "depth/loss": 1.0}}
    with open_checkpoints(copy, read_only=True) as checkpoints:
        assert checkpoints.best_step() == 6
    with open_checkpoints(copy, keep=1, logged=logged.get) as checkpoints:
        checkpoints.save(make_state(8), None)
    assert path.read_bytes() == before
    assert folders(copy) == [2, 8]
    assert "the metrics of checkpoint 2 are damaged" in caplog.text


def test_old_checkpoints_that_a_kill_has_left_are_deleted_at_the_next_start(copy):
    # Named after a fault: after a kill between the last save and the deletion, they remained for good.
    with open_checkpoints(copy, keep=1) as checkpoints:
        assert checkpoints.steps() == [2, 4, 6]
        assert checkpoints.restore(template()).step == 6
    assert folders(copy) == [2, 6]


def test_metrics_of_older_versions_have_no_checksum(copy):
    (copy / FOLDER / "4" / "metrics" / "metrics").write_text(f'{{"{METRIC}": 0.9}}')
    with open_checkpoints(copy) as checkpoints:
        assert checkpoints.best_step() == 4


def test_all_damaged_is_an_error_and_leaves_everything_in_place(copy):
    for step in (2, 4, 6):
        truncate(copy / FOLDER / str(step))
    for _ in range(2):  # the second time too: nothing starts anew by itself
        with open_checkpoints(copy) as checkpoints, pytest.raises(CheckpointError, match=r"steps \[2, 4, 6\]"):
            checkpoints.restore(template())
    assert folders(copy) == [2, 4, 6]


def test_one_asked_for_by_its_step_has_no_stand_in(copy):
    truncate(copy / FOLDER / "4")
    with open_checkpoints(copy) as checkpoints, pytest.raises(CheckpointError, match=r"steps \[4\]"):
        checkpoints.restore(template(), "4")


def test_state_of_another_network_is_an_error(three, caplog):
    with open_checkpoints(three) as checkpoints, pytest.raises(CheckpointError, match="If the code of the network"):
        checkpoints.restore(template(size=2000))
    assert "kernel is float32(3000,), not float32(2000,)" in caplog.text
    assert folders(three) == [2, 4, 6]


def test_what_a_killed_save_left_is_removed(copy):
    left = copy / FOLDER / "8.orbax-checkpoint-tmp"
    shutil.copytree(copy / FOLDER / "6", left)
    with open_checkpoints(copy) as checkpoints:
        assert checkpoints.steps() == [2, 4, 6]
        checkpoints.save(make_state(8), None)
        checkpoints.save(make_state(9), None)  # after which 8 is written
        assert not left.exists()
    assert folders(copy) == [2, 8, 9]


def test_read_only_changes_nothing(copy, tmp_path):
    def files():
        return {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}

    (copy / FOLDER / "8.orbax-checkpoint-tmp").mkdir()  # another process is writing it
    (copy / FOLDER / "8.orbax-checkpoint-tmp" / "data").write_bytes(b"half")
    truncate(copy / FOLDER / "6")
    before = files()
    with open_checkpoints(copy, read_only=True) as checkpoints:
        assert checkpoints.restore(template()).step == 4
    assert files() == before
    with pytest.raises(CheckpointError, match="train first"):
        open_checkpoints(tmp_path / "typo", read_only=True)
    assert not (tmp_path / "typo").exists()


def test_saving_copies_what_later_steps_overwrite(tmp_path):
    step = parallel.map_train_step(lambda state, batch: jax.tree.map(lambda x: x + batch[0].astype(x.dtype), state))
    batch = parallel.place_batch(np.ones(4, np.float32))
    state = parallel.place_state({"step": np.int32(0), "params": np.zeros(1_000_000, np.float32)})
    expected = []
    with open_checkpoints(tmp_path, keep=3) as checkpoints:
        for i in range(9):
            state = step(state, batch)  # consumes the state before
            if i % 3 == 2:
                wrapped = TrainState(state["step"], {"w": state["params"]}, {}, (), Window.empty(1))
                checkpoints.save(wrapped, None)
                expected.append((int(state["step"]), float(state["params"][0])))
    with open_checkpoints(tmp_path, keep=3) as checkpoints:
        shape = jax.eval_shape(lambda: wrapped)
        for number, value in expected:
            np.testing.assert_array_equal(checkpoints.restore(shape, str(number)).params["w"], value)
    assert expected == [(3, 3.0), (6, 6.0), (9, 9.0)]


def raise_after_saving(checkpoints):
    checkpoints.save(make_state(2), None)
    raise ZeroDivisionError


def test_error_of_the_run_waits_for_the_checkpoint(tmp_path):
    with pytest.raises(ZeroDivisionError), open_checkpoints(tmp_path) as checkpoints:
        raise_after_saving(checkpoints)
    assert folders(tmp_path) == [2]


def test_saving_and_reading_say_nothing(tmp_path, capfd, caplog):
    caplog.set_level(logging.INFO)
    save_all(tmp_path, {1: 0.5, 2: None})
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(template())
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@contextlib.contextmanager
def small_disk(folder):
    """A file system of its own, of 1 MB: needs the right to mount one."""
    folder.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount")
    if (
        not mounted
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("a file system cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def save_until_full(workdir, sizes):
    with open_checkpoints(workdir, keep=1) as checkpoints:
        for step in range(1, 10):
            checkpoints.save(make_state(step, sizes[min(step, len(sizes)) - 1]), {METRIC: -step})


@pytest.mark.parametrize(
    ("limited", "sizes", "reason"),
    [(small_disk, (100_000, 100_000), "No space left on device"), (small_files, (3000, 80_000), "File too large")],
)
def test_full_disk_says_which_checkpoint_stands(limited, sizes, reason, tmp_path, capfd):
    with limited(tmp_path / "disk"):
        # A failure in the background shows at the next save, or at the end.
        with pytest.raises(CheckpointError) as caught:
            save_until_full(tmp_path / "disk", sizes)
        message = str(caught.value)
        assert reason in message
        steps = folders(tmp_path / "disk")
        assert f"The checkpoint of step {steps[-1]} remains" in message
        with open_checkpoints(tmp_path / "disk", keep=1) as checkpoints:
            size = sizes[steps[-1] > 1]
            assert_same_bits(checkpoints.restore(template(size)), make_state(steps[-1], size))
    assert capfd.readouterr() == ("", "")


def test_disk_full_from_the_start(tmp_path):
    with small_files(tmp_path / "disk"), pytest.raises(CheckpointError, match="There is no checkpoint yet"):
        save_until_full(tmp_path / "disk", [80_000])
