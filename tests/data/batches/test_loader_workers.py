"""Worker processes with little shared memory, that die, or that a script starts by mistake."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from helpers.batch_stream import train

from mtan_jax.data.batches import shared_memory
from mtan_jax.data.batches.loader_workers import WorkerError
from mtan_jax.data.batches.shared_memory import Workers

ROOT = Path(__file__).resolve().parents[3]
MB = 2**20


# Shared memory


@pytest.mark.parametrize(
    ("free", "streams", "chosen"),
    [
        (None, 1, Workers(4, 2)),  # the system has no separate limit
        (1000 * MB, 1, Workers(4, 2)),  # 4 workers x 6 batches, and 1: 125 MB
        (100 * MB, 1, Workers(4, 1)),  # 4 workers x 4 batches, and 1: 85 MB
        (64 * MB, 1, Workers(2, 1)),  # Docker's default; 3 workers need 65 MB
        (100 * MB, 2, Workers(2, 1)),
        (64 * MB, 2, Workers(1, 1)),
        (20 * MB, 1, Workers(0)),
        (0, 1, Workers(0)),
    ],
)
def test_as_many_workers_as_fit_into_shared_memory(monkeypatch, caplog, free, streams, chosen):
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: free)
    assert shared_memory.fit(4, 5 * MB, streams) == chosen
    assert len(caplog.records) == (chosen != Workers(4, 2))
    if caplog.records:
        for part in ("/dev/shm has", "free, but config.data.workers = 4 needs", "--shm-size="):
            assert part in caplog.text


def test_small_batches_leave_room_for_the_semaphores_of_the_workers(monkeypatch):
    # A worker takes 47 pages of 4 kB, measured on a tmpfs.
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: 300_000)
    assert shared_memory.fit(4, 1000) == Workers(1, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is Linux'")
def test_shared_memory_that_is_read_only_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(shared_memory, "FOLDER", str(tmp_path))
    assert shared_memory.free_bytes() > 0
    access = os.access  # root may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and not mode & os.W_OK)
    assert shared_memory.free_bytes() == 0
    monkeypatch.setattr(shared_memory, "FOLDER", str(tmp_path / "gone"))
    assert shared_memory.free_bytes() == 0


def test_batches_do_not_depend_on_shared_memory(monkeypatch, caplog):
    straight = train(0)
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: 0)
    threads = train(4)
    assert "/dev/shm has 0 MB free" in caplog.text
    for _ in range(3):
        np.testing.assert_array_equal(next(threads)["image"], next(straight)["image"])
    threads.close()
    straight.close()


def run_in_small_shared_memory(options, program, *arguments):
    """Runs a program whose /dev/shm is mounted with these options, as in a container."""
    mount = f"mount -t tmpfs -o {options} tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs in a namespace of its own (unshare -m)")
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, program, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=300)


FAST_READER = """
    import time
    from helpers.batch_stream import train

    if __name__ == "__main__":
        batches = train(2)
        for step in range(60):
            next(batches)
            if step % 20 == 0:
                time.sleep(1)  # the queues fill, and shared memory with them
        batches.close()
        print("read", step + 1)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is Linux'")
def test_workers_in_a_container_do_not_die_of_a_bus_error(tmp_path):
    (tmp_path / "program.py").write_text(textwrap.dedent(FAST_READER))
    ended = run_in_small_shared_memory("size=16m", tmp_path / "program.py")
    assert (ended.returncode, ended.stdout) == (0, "read 60\n"), ended.stderr
    (line,) = ended.stderr.splitlines()
    assert "/dev/shm has 16 MB free, but config.data.workers = 2 needs 20 MB: using 2 with shorter queues" in line


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is Linux'")
@pytest.mark.parametrize("options", ["ro", pytest.param("size=4k", marks=pytest.mark.long)])
def test_threads_read_where_there_is_no_room_for_semaphores(options, tmp_path):
    # A past bug: "[Errno 30] Read-only file system".
    (tmp_path / "program.py").write_text(textwrap.dedent(FAST_READER))
    ended = run_in_small_shared_memory(options, tmp_path / "program.py")
    assert (ended.returncode, ended.stdout) == (0, "read 60\n"), ended.stderr
    assert "/dev/shm has 0 MB free" in ended.stderr
    assert "using threads of this process instead" in ended.stderr


# Workers that die


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "parts"),
    [
        (signal.SIGKILL, ("it ran out of memory", "config.data.workers = 1")),
        pytest.param(signal.SIGBUS, ("/dev/shm", "--shm-size", "config.data.workers = 1"), marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, ("was ended by SIGTERM", "Set workers to 0"), marks=pytest.mark.long),
    ],
)
def test_a_worker_that_dies_is_explained(number, parts):
    batches = train(1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, number)
    with pytest.raises(WorkerError) as error:
        list(itertools.islice(batches, 20))  # including those already prefetched
    for part in parts:
        assert part in str(error.value)


UNGUARDED = """
    from helpers.batch_stream import train

    batches = train(2)
    print(len([next(batches) for _ in range(4)]))
"""


@pytest.mark.slow
def test_a_script_without_guard_gets_one_message(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(UNGUARDED))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    ended = subprocess.run(
        [sys.executable, script], check=False, capture_output=True, text=True, env=environment, timeout=300
    )
    lines = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"{script} starts worker processes when it is imported" in lines[-1]
    assert 'below `if __name__ == "__main__":`, or set workers to 0' in lines[-1]
    assert ended.stderr.count("Traceback") == 1  # of the script itself
    assert len(lines) < 15, ended.stderr
