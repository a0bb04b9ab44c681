"""Ctrl-C and SIGTERM end the program soon, with one line, whenever they come."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from helpers import whole_run

from mtan_jax.runtime.interrupts import CONTINUES

MESSAGE = f"error: stopped; {CONTINUES}"


def interrupt(run, folder, is_time, seconds=120, signum=signal.SIGINT):
    """Starts the program, interrupts it when `is_time(process, its stderr)`.

    Returns:
        What it wrote to stderr, and how many seconds after the interrupt it ended.
    """
    [process] = run.start(folder)
    try:
        deadline = time.monotonic() + seconds
        while not is_time(process, run.read_output(0)[1]):
            assert process.poll() is None, run.read_output(0)
            assert time.monotonic() < deadline, "the moment did not come"
            time.sleep(0.02)
        process.send_signal(signum)
        sent = time.monotonic()
        assert process.wait(60) == 128 + signum
        return run.read_output(0)[1], time.monotonic() - sent
    finally:
        whole_run.kill([process])


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux'")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_during_the_imports(signum, tmp_path):
    run = whole_run.Run("toy_config", tmp_path / "data", tmp_path / "output")

    def is_time(process, err):
        return "jaxlib" in pathlib.Path(f"/proc/{process.pid}/maps").read_text()

    err, seconds = interrupt(run, tmp_path / "run", is_time, signum=signum)
    assert err == f"{MESSAGE}\n"
    assert seconds < 10


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux'")
@pytest.mark.slow
@pytest.mark.parametrize("target", [0, 1])
def test_one_of_two_processes_during_the_imports(target, tmp_path):
    # It ended before it had connected, and the other waited for it for five minutes.
    run = whole_run.Run("toy_config", tmp_path / "data", tmp_path / "output")
    started = run.start(tmp_path / "run", processes=2)
    try:
        maps, deadline = pathlib.Path(f"/proc/{started[target].pid}/maps"), time.monotonic() + 60
        while "jaxlib" not in maps.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        started[target].send_signal(signal.SIGTERM)
        sent = time.monotonic()
        assert [process.wait(60) for process in started] == [143, 143]
        assert time.monotonic() - sent < 25
    finally:
        whole_run.kill(started)
    errors = [run.read_output(i)[1].splitlines()[-1] for i in range(2)]
    assert errors[target] == MESSAGE
    assert f"process {target} on host" in errors[1 - target]
    assert "was stopped" in errors[1 - target]


IN_A_FINALIZER = """
import signal
from mtan_jax.runtime import interrupts
class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
interrupts.install()
with interrupts.raised():
    Finalized()
    print("the run went on")
"""


def test_in_a_finalizer():
    # Python ignores an exception there: it showed a traceback, and the run went on.
    environment = {**os.environ, "PYTHONPATH": str(whole_run.ROOT)}
    command = [sys.executable, "-c", IN_A_FINALIZER]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (143, "", f"{MESSAGE}\n")


AT_THE_END = """
import os, signal, sys, threading, time
from mtan_jax.runtime import interrupts, parallel
interrupts.install(connects=True)
parallel.start_processes(sys.argv[1], 2, int(sys.argv[2]))
with parallel.ending_together():
    if sys.argv[2] == sys.argv[3]:
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        time.sleep(30)
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", [0, 1])
def test_while_a_process_waits_for_the_others_to_end(target, tmp_path):
    # It showed a traceback of KeyboardInterrupt, and the other took 20 seconds to notice that it had ended.
    address = f"127.0.0.1:{whole_run.free_port()}"
    environment = {**os.environ, "PYTHONPATH": str(whole_run.ROOT)}
    files = [(tmp_path / str(i)).open("w+") for i in range(2)]
    started = [
        subprocess.Popen([sys.executable, "-c", AT_THE_END, address, str(i), str(target)], env=environment, stderr=file)
        for i, file in enumerate(files)
    ]
    try:
        codes = [process.wait(60) for process in started]
    finally:
        whole_run.kill(started)
    errors = []
    for file in files:
        file.seek(0)
        errors.append(file.read())
        file.close()
    assert codes[target] == 130, errors
    assert codes[1 - target] == 130, errors
    assert errors[target] == f"{MESSAGE}\n"
    assert f"process {target} on host" in errors[1 - target]
    assert "Traceback" not in errors[1 - target]


@pytest.mark.slow
@pytest.mark.parametrize("after", [1.0, pytest.param(3.0, marks=pytest.mark.long)])
def test_during_compilation(after, tmp_path):
    # Named after a crash: XLA's threads went on compiling for half a minute, and Python ended under them.
    run = whole_run.Run("tiny_config", tmp_path / "data", tmp_path / "output", compilation_cache="")
    begun = []

    def is_time(process, err):
        if "training streets for 13 steps" in err and not begun:
            begun.append(time.monotonic())
        return begun and time.monotonic() - begun[0] > after

    err, seconds = interrupt(run, tmp_path / "run", is_time)
    assert err.splitlines()[-1] == MESSAGE
    assert "Fatal" not in err
    assert "Traceback" not in err
    assert seconds < 10
    assert not (tmp_path / "run" / ".lock.owner").exists()  # the directory was released
