"""Locks on folders: one owner among threads and processes, a message that names it, and takeover after SIGKILL."""

import errno
import fcntl
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from mtan_jax.runtime import lock

ROOT = pathlib.Path(__file__).parents[2]
HOLD = """
import pathlib, sys
from mtan_jax.runtime import lock
with lock.hold(pathlib.Path(sys.argv[1]), "the folder", wait=False):
    print("held", flush=True)
    {then}
"""


def start(path, then="sys.stdin.read()"):
    """A process that holds the lock until its input ends."""
    command = [sys.executable, "-c", HOLD.format(then=then), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


def messages(caplog):
    return [record.getMessage() for record in caplog.records]


def test_a_live_owner_is_named_and_its_end_releases_the_lock(tmp_path, caplog):
    path = tmp_path / "new" / "lock"
    process = start(path)
    owner = lock.read_owner(path)
    assert owner.pid == process.pid
    with pytest.raises(lock.LockedError) as error, lock.hold(path, "the folder", wait=False, remedy="Go away."):
        pass
    assert str(error.value) == f"the folder is in use by {owner}. Go away."
    for part in (f"process {process.pid} on host {owner.host} (started 20", "-c"):
        assert part in str(owner)
    process.communicate()
    assert lock.read_owner(path) is None
    with lock.hold(path, "the folder", wait=False):
        assert lock.read_owner(path).pid == os.getpid()
    assert messages(caplog) == []


def test_a_killed_owner_is_replaced_with_one_message(tmp_path, caplog):
    path = tmp_path / "lock"
    process = start(path)
    owner = lock.read_owner(path)
    kill(process)
    for _ in range(2):
        with lock.hold(path, "the folder", wait=False):
            pass
    assert messages(caplog) == [f"the folder is taken over from {owner}, which ended without releasing it"]


# What may be running still when the owner is killed: a program, and a copy of the process.
CHILDREN = {
    "program": "import subprocess; child = subprocess.Popen(['sleep', '60']).pid",
    "fork": "import os, time; child = os.fork()\n    if not child: time.sleep(60)",
    "multiprocessing": "import multiprocessing, time; child = multiprocessing.get_context('fork').Process("
    "target=time.sleep, args=(60,)); child.start(); child = child.pid",
}


def is_locked(path):
    try:
        with lock.hold(path, "the folder", wait=False):
            return False
    except lock.LockedError:
        return True


@pytest.mark.parametrize("child", CHILDREN.values(), ids=CHILDREN)
def test_a_child_that_outlives_a_killed_owner_does_not_keep_the_lock(child, tmp_path):
    path = tmp_path / "lock"
    process = start(path, f"{child}\n    print(child, flush=True); sys.stdin.read()")
    pid = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    try:
        os.kill(pid, 0)  # it lives
        deadline = time.monotonic() + 10  # in which a copy of the process closes what is not its own
        while is_locked(path) and time.monotonic() < deadline:
            time.sleep(0.01)
        with lock.hold(path, "the folder", wait=False):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        process.communicate()


def test_waiting_says_so_once_and_goes_on(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(lock, "SECONDS_BETWEEN_TRIES", 0.01)
    path = tmp_path / "lock"
    process = start(path)
    owner = lock.read_owner(path)
    timer = threading.Timer(0.3, process.stdin.close)
    timer.start()
    with lock.hold(path, "the folder", wait=True):
        assert process.wait() == 0
    timer.join()
    process.stdout.close()
    assert messages(caplog) == [f"waiting for the folder, in use by {owner}"]


def test_a_thread_may_take_its_lock_again_and_another_thread_may_not(tmp_path):
    path = tmp_path / "lock"
    refused = []

    def try_it():
        try:
            with lock.hold(path, "the folder", wait=False):
                pass
        except lock.LockedError as error:
            refused.append(str(error))

    with lock.hold(path, "the folder", wait=False), lock.hold(path, "the folder", wait=False):
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
    assert f"process {os.getpid()} " in refused[0]
    with lock.hold(path, "the folder", wait=False):
        pass


def test_an_error_inside_releases_the_lock(tmp_path):
    path = tmp_path / "lock"
    with pytest.raises(KeyboardInterrupt), lock.hold(path, "the folder", wait=False):
        raise KeyboardInterrupt
    assert lock.read_owner(path) is None
    start(path).communicate()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"host": "a"}', json.dumps(dict.fromkeys(["host", "pid"]))])
def test_an_owner_that_is_half_written_is_no_owner(text, tmp_path):
    (tmp_path / "lock.owner").write_text(text)
    assert lock.read_owner(tmp_path / "lock") is None
    (tmp_path / "lock.owner").write_bytes(b"\xff")
    assert lock.read_owner(tmp_path / "lock") is None


def test_an_owner_that_has_not_named_itself_is_refused_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SECONDS_FOR_OWNER", 0.1)
    process = start(tmp_path / "lock")
    (tmp_path / "lock.owner").unlink()
    with (
        pytest.raises(lock.LockedError, match="in use by an unknown process"),
        lock.hold(tmp_path / "lock", "the folder", wait=False),
    ):
        pass
    process.communicate()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_with_a_warning(code, tmp_path, monkeypatch, caplog):
    def flock(file, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock.hold(tmp_path / "lock", "the folder", wait=False):
        pass
    (message,) = messages(caplog)
    assert message.startswith("the folder cannot be locked because its file system has no file locks")


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "lock").mkdir()
    with pytest.raises(OSError, match="directory"), lock.hold(tmp_path / "lock", "the folder", wait=False):
        pass


def test_whether_a_lock_is_held_can_be_asked_without_disturbing_its_owner(tmp_path):
    path = tmp_path / "folder" / ".lock"
    assert not lock.is_held(path)
    assert not path.parent.exists()
    with lock.hold(path, "the folder", wait=False) as held:
        assert lock.is_held(path)
        assert not held.is_lost()
    assert path.exists()
    assert not lock.is_held(path)
