"""If a process of a run dies or hangs, the others end soon and name it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from helpers import whole_run

from mtan_jax.runtime import activity, interrupts, liveness, parallel, process_status
from mtan_jax.runtime.process_status import Status

HOST = socket.gethostname()
HOUR = 3600.0


class Ended(BaseException):
    """Stands for the end of the process."""


class FakeStore:
    """What several processes have published; the test writes for the others."""

    def __init__(self):
        self.texts = {}

    def put(self, index, text):
        self.texts[index] = text

    def read(self):
        return dict(self.texts)


class Others:
    """A watch of one process, and the statuses of the others."""

    def __init__(self, monkeypatch, *, index, count=2):
        self.printed, self.store = [], FakeStore()
        self.watch = liveness.Watch(index, count, self.store)
        monkeypatch.setattr(liveness, "_print", self.printed.append)
        monkeypatch.setattr(liveness, "_LINGER", 0.2)
        monkeypatch.setattr(liveness.os, "_exit", self.exit)
        self.code = None

    def exit(self, code):
        self.code = code
        raise Ended

    def poll(self, **statuses):
        """One second passes, in which the processes publish; returns whether the watch ended its process."""
        for i, status in statuses.items():
            self.store.put(int(i[1:]), json.dumps(status._asdict()))
        try:
            self.watch._exchange()
            self.watch._judge()
        except Ended:
            return True
        return False


def status(beat, text="running step 7", kind="together", seconds=0.0, limit=HOUR, **other):
    return Status(beat, "b", text, kind, seconds, limit, **other)


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_publishes_nothing_new_is_dead(index, monkeypatch):
    others = Others(monkeypatch, index=index, count=3)
    p2 = status(1)
    assert not any(others.poll(p2=p2, **{f"p{1 - index}": status(beat)}) for beat in range(20))
    assert others.poll(p2=p2, **{f"p{1 - index}": status(21)})
    assert others.code == liveness.EXIT_CODE
    assert others.printed == [process_status.dead_message(2, p2)]
    assert "process 2 on host b has not responded for 20 s" in others.printed[0]
    assert "It last reported: running step 7." in others.printed[0]
    assert json.loads(others.store.texts[index])["end"] == others.printed[0]  # for the others


def test_a_frozen_coordinator_is_dead_although_nothing_can_be_read(monkeypatch):
    others = Others(monkeypatch, index=1)
    others.poll(p0=status(1))
    for _ in range(19):
        others.watch._judge()
    with pytest.raises(Ended):
        others.watch._judge()
    assert others.printed == [process_status.dead_message(0, status(1))]


def test_the_reason_of_another_process_is_repeated(monkeypatch):
    others = Others(monkeypatch, index=1)
    ending = status(1, end="process 0 on host b has failed: no space left", exit_code=1)
    assert not others.poll(p0=ending)  # this process may be about to report the same
    assert others.poll(p0=ending)
    assert (others.printed, others.code) == ([ending.end], 1)


STATUSES = [
    ("all processes run a step", [status(1), status(1)], None),
    ("one blocks while it reads", [status(1, seconds=HOUR + 9), status(1, "reading", "work", HOUR + 1)], 1),
    (
        "one prepares data for hours",
        [status(1, seconds=9 * HOUR), status(1, "preparing", "work", 9 * HOUR, None)],
        None,
    ),
    ("one has just finished its work", [status(1, seconds=9 * HOUR), status(1)], None),
    ("a step never ends", [status(1, seconds=9 * HOUR), status(1, seconds=9 * HOUR)], 0),
    ("one waits for a lock", [status(1, seconds=9 * HOUR), status(1, "waiting", "wait", 9 * HOUR, None)], None),
]


@pytest.mark.parametrize(("statuses", "named"), [row[1:] for row in STATUSES], ids=[row[0] for row in STATUSES])
def test_what_counts_as_hung(statuses, named):
    message = process_status.hung_message(dict(enumerate(statuses)))
    if named is None:
        assert message is None
    else:
        assert message.startswith("no progress: process")
        assert statuses[named].text in message


def test_long_waits_are_reported_every_minute_with_the_process_waited_for(monkeypatch, caplog):
    others = Others(monkeypatch, index=0, count=3)
    monkeypatch.setattr(activity, "_current", activity.Activity("running step 7", "together", time.monotonic(), HOUR))
    waiting = status(0, "waiting for all processes (data prepared)", seconds=60.0)
    preparing = status(0, "preparing the data", "work", seconds=75.0, limit=None)
    for beat, seconds in enumerate([58.0, 59.0, 60.0, 61.0, 119.0, 121.0, 0.0, 1.0]):
        assert not others.poll(
            p1=waiting._replace(beat=beat, seconds=seconds), p2=preparing._replace(beat=beat, seconds=seconds + 15)
        )
    assert [record.getMessage() for record in caplog.records] == [
        "waiting for 60 s: process 2 on host b is preparing the data (for 75 s)",
        "waiting for 121 s: process 2 on host b is preparing the data (for 136 s)",
    ]


def test_processes_are_grouped_by_what_they_do():
    statuses = {i: status(1, seconds=float(i)) for i in range(11)} | {11: status(1, "reading a batch", "work", 4.0)}
    assert process_status.describe(statuses) == (
        "processes 0, 1, 2, 3, 4, 5, 6, 7 and 3 more are running step 7 (for 10 s); "
        "process 11 on host b is reading a batch (for 4 s)"
    )


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    folder = tmp_path_factory.mktemp("endless")
    options = {"duration": "1000000 steps", "eval.every": "100000 steps", "checkpoint.every": "10 steps"}
    return whole_run.Run("toy_config", folder / "data", folder, **options)


def end_of_others(run, started, victim, signum, seconds=2 * liveness.ENDS_WITHIN):
    """Sends a signal to one process; returns how long the other lived, its exit code and its last line."""
    other = started[1 - victim]
    started[victim].send_signal(signum)
    sent = time.monotonic()
    try:
        other.wait(seconds)
        lived = time.monotonic() - sent
    finally:
        whole_run.kill(started)
    return lived, other.returncode, run.read_output(1 - victim)[1].splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_or_frozen_process_ends_the_others(victim, signum, endless, tmp_path):
    # Named after a fault: the others ended after 100 s with a stack trace of C++ and no name.
    started = endless.start(tmp_path, processes=2, devices=2)
    deadline = time.monotonic() + 240
    while not whole_run.checkpoint_steps(tmp_path):
        assert all(process.poll() is None for process in started), endless.read_output(0)
        assert time.monotonic() < deadline, endless.read_output(0)
        time.sleep(0.1)
    lived, code, line = end_of_others(endless, started, victim, signum)
    assert lived < liveness.ENDS_WITHIN
    assert code == liveness.EXIT_CODE
    assert line.startswith(f"error: process {victim} on host {HOST} has ")
    assert "It last reported: " in line
    assert line.endswith("All processes of the run end; " + interrupts.CONTINUES)


@pytest.mark.slow
def test_a_process_that_blocks_while_it_reads_is_reported_and_ends_the_run(tmp_path):
    run = whole_run.Run("toy_blocked_config", tmp_path / "data", tmp_path)
    errors = run.fail(run.start(tmp_path / "run", processes=2, devices=2), 240)
    reading = rf"process 1 on host {HOST} is reading the batch of step \d+ \(for \d+ s\)"
    assert re.search(rf"waiting for \d+ s: {reading}", errors[0]), errors[0]
    for error in errors:
        assert re.search(rf"error: no progress: {reading}\. All processes of the run end; .*\n$", error), error
        assert "Traceback" not in error


DISCONNECT = """
import os, sys
from mtan_jax.runtime import parallel
parallel.start_processes(sys.argv[1], 2, int(sys.argv[2]))
with parallel.ending_together():
    pass
if sys.argv[2] == "1":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_before_it_disconnects_is_not_waited_for_long():
    # Process 0 waited for 96 s until JAX noticed.
    address = f"127.0.0.1:{whole_run.free_port()}"
    environment = {**os.environ, "PYTHONPATH": str(whole_run.ROOT)}
    command = [sys.executable, "-c", DISCONNECT, address]
    started = [subprocess.Popen([*command, str(i)], env=environment, stderr=subprocess.DEVNULL) for i in range(2)]
    try:
        started[1].wait(60)
        ended = time.monotonic()
        started[0].wait(60)
        assert time.monotonic() - ended < parallel.SECONDS_TO_DISCONNECT + 15
    finally:
        whole_run.kill(started)


@pytest.mark.slow
def test_an_error_in_one_process_is_named_by_the_others(tmp_path):
    run = whole_run.Run("toy_config", tmp_path / "data", tmp_path, duration="100000 steps")
    errors = run.fail(run.start(tmp_path / "run", ["--config.seed=0", "--config.batch_size=3"], processes=2), 240)
    assert "config.batch_size" in errors[1]
    assert f"error: process 1 on host {HOST} has failed while " in errors[0]
    assert "Traceback" not in errors[0]
    assert "config.batch_size" in errors[0].splitlines()[-1]
