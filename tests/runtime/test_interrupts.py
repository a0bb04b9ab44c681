"""Ctrl-C and SIGTERM end the program soon, with one line, whenever they come."""

import pathlib
import signal
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
