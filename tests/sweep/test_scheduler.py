"""The order, failures and interruptions of a sweep, with a stand-in for training."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from mtan_jax.commands.config_file import load_config
from mtan_jax.runtime import lock
from mtan_jax.sweep import run_state, scheduler
from mtan_jax.sweep.command import Command
from mtan_jax.sweep.scheduler import Scheduler
from mtan_jax.sweep.slots import Slot
from mtan_jax.training import workdir

STAND_IN = pathlib.Path(__file__).parents[1] / "helpers" / "stand_in_run.py"


class StandIn(Command):
    outcome, seconds = "complete", 0.1

    @property
    def arguments(self):
        return [sys.executable, str(STAND_IN), str(self.workdir), str(self.seconds), self.outcome]


def make(folder, name, seed=0, **fields):
    config = load_config("streets:smoke")
    config.seed = seed
    config.update_from_flattened_dict(fields)
    return StandIn(name, folder / name, (), config)


class Watch:
    """Keeps the order in which runs start, and the largest number that ran at once."""

    def __init__(self, then=lambda entries: None):
        self.started, self.most, self._then = [], 0, then

    def update(self, entries):
        running = [entry.command.name for entry in entries if entry.state == "running"]
        self.started += [name for name in running if name not in self.started]
        self.most = max(self.most, len(running))
        self._then(entries)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(scheduler, "SECONDS_BETWEEN_LOOKS", 0.02)
    monkeypatch.setattr(scheduler, "SECONDS_BETWEEN_TRIES", 0.05)


def test_all_runs_are_trained_once_as_many_at_a_time_as_there_are_slots(tmp_path):
    commands = [make(tmp_path, f"run{i}", seed=i) for i in range(5)]
    watch = Watch()
    sweep = Scheduler(commands)
    sweep.run([Slot("a"), Slot("b")], watch)
    assert [entry.state for entry in sweep.entries] == ["complete"] * 5
    assert (sorted(watch.started), watch.most) == ([f"run{i}" for i in range(5)], 2)
    assert dict(sweep.entries[0].progress.metrics) == {"depth/abs_error": 0.5}
    again = Scheduler(commands)
    assert not again.has_work
    assert [entry.progress.step for entry in again.entries] == [4] * 5


@pytest.mark.parametrize(
    ("outcome", "message"),
    [("fail", "it fails by design (exit code 1; see {})"), ("kill", "(killed by signal 9; see {})")],
)
def test_a_run_that_fails_stops_nothing_and_is_tried_again_by_the_next_call(tmp_path, outcome, message):
    commands = [make(tmp_path, f"run{i}", seed=i) for i in range(3)]
    object.__setattr__(commands[0], "outcome", outcome)
    sweep = Scheduler(commands)
    sweep.run([Slot("a")], Watch())
    assert [entry.state for entry in sweep.entries] == ["failed", "complete", "complete"]
    assert sweep.entries[0].message.endswith(message.format(tmp_path / "run0" / "output.log"))
    object.__setattr__(commands[0], "outcome", "complete")
    again = Scheduler(commands)
    assert again.has_work
    again.run([Slot("a")], Watch())
    assert [entry.state for entry in again.entries] == ["complete"] * 3


def test_a_folder_that_cannot_be_used_and_damaged_metrics_stop_no_other_run(tmp_path):
    commands = [make(tmp_path, f"run{i}", seed=i) for i in range(3)]
    commands[0].workdir.write_text("a file in the way")
    commands[1].workdir.mkdir()
    (commands[1].workdir / "metrics.jsonl").write_text('{"damaged\n{"step": 1, "epoch": 0.5, "split": "val"}\n')
    sweep = Scheduler(commands)
    sweep.run([Slot("a")], Watch())
    assert [entry.state for entry in sweep.entries] == ["failed", "complete", "complete"]
    assert sweep.entries[0].message.startswith("cannot be started: ")


def test_rows_of_an_earlier_process_do_not_count_for_the_time_left(tmp_path):
    command = make(tmp_path, "run")
    object.__setattr__(command, "seconds", 60.0)
    command.workdir.mkdir()
    (command.workdir / "metrics.jsonl").write_text('{"step": 2, "epoch": 1.0, "split": "val"}\n')
    seen = []

    def stop(entries):
        seen.append((entries[0].progress.step, entries[0].timed_from))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Scheduler([command]).run([Slot("a")], Watch(stop))
    assert seen[:3] == [(2, None)] * 3


def test_a_folder_that_is_deleted_meanwhile_is_a_failure(tmp_path):
    command = make(tmp_path, "run")
    object.__setattr__(command, "seconds", 2.0)

    def delete(entries):
        if (command.workdir / "metrics.jsonl").exists():
            shutil.rmtree(command.workdir)

    sweep = Scheduler([command])
    sweep.run([Slot("a")], Watch(delete))
    assert sweep.entries[0].state == "failed"
    assert "(no output) (exit code 1" in sweep.entries[0].message


def test_runs_with_other_programs_start_first(tmp_path):
    # While "a0" may be compiling, "b0" starts, since "a1" would compile the same program at the same time.
    commands = [make(tmp_path, "a0"), make(tmp_path, "a1", seed=1), make(tmp_path, "b0", weighting="dwa")]
    for command in commands:
        object.__setattr__(command, "seconds", 2.0)
    watch = Watch()
    Scheduler(commands).run([Slot("a"), Slot("b")], watch)
    assert watch.started == ["a0", "b0", "a1"]


def test_a_run_that_another_process_trains_is_waited_for(tmp_path):
    command = make(tmp_path, "run")
    states = []
    with lock.hold(command.workdir / workdir.LOCK_FILE, "the folder", wait=False):
        sweep = Scheduler([command])

        def watch(entries):
            states.append(entries[0].state)
            if len(states) > 5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sweep.run([Slot("a")], Watch(watch))
    assert set(states[:-1]) == {"running elsewhere"}
    sweep = Scheduler([command])
    sweep.run([Slot("a")], Watch())
    assert sweep.entries[0].state == "complete"


def test_a_complete_run_with_another_configuration_is_an_error(tmp_path):
    command = make(tmp_path, "run")
    command.workdir.mkdir()
    workdir.claim(command.workdir, command.config, write=True)
    Scheduler([command]).run([Slot("a")], Watch())
    (entry,) = Scheduler([make(tmp_path, "run", batch_size=8)]).entries
    assert entry.state == "failed"
    assert "config.batch_size: 4 there, 8 here" in entry.message


def test_an_interrupt_stops_the_processes(tmp_path):
    commands = [make(tmp_path, f"run{i}", seed=i) for i in range(2)]
    for command in commands:
        object.__setattr__(command, "seconds", 60.0)

    def interrupt(entries):
        if all(entry.process is not None for entry in entries):
            raise KeyboardInterrupt

    sweep = Scheduler(commands)
    with pytest.raises(KeyboardInterrupt):
        sweep.run([Slot("a"), Slot("b")], Watch(interrupt))
    assert [(entry.state, entry.process) for entry in sweep.entries] == [("stopped", None)] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="the signal is Linux's")
def test_processes_end_with_a_sweep_that_is_killed(tmp_path):
    launcher = pathlib.Path(scheduler.launcher.__file__)
    path = tmp_path / "pid"
    code = (
        "import os, pathlib, subprocess, sys, time\n"
        f"command = [sys.executable, {str(launcher)!r}, str(os.getpid()), '/bin/sleep', '60']\n"
        f"child = subprocess.Popen(command, start_new_session=True)\n"
        f"pathlib.Path({str(path)!r}).write_text(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    command_line = None
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and command_line != b"/bin/sleep\x0060\x00":
        time.sleep(0.05)
        if path.exists() and path.read_text():
            command_line = pathlib.Path(f"/proc/{path.read_text()}/cmdline").read_bytes()
    parent.kill()
    parent.wait()
    child = int(path.read_text())
    while time.monotonic() < deadline and is_running(child):
        time.sleep(0.05)
    assert not is_running(child)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def test_the_time_left_follows_from_the_last_rows(tmp_path, monkeypatch):
    command = make(tmp_path, "run")  # of 4 steps
    command.workdir.mkdir()
    entry = scheduler.Entry(command)
    now = 100.0
    monkeypatch.setattr(scheduler.time, "monotonic", lambda: now)

    def write(step):
        with (command.workdir / "metrics.jsonl").open("a") as file:
            file.write(f'{{"step": {step}, "epoch": {step / 4}, "split": "train", "depth/loss": 1.0}}\n')
        entry.look()

    write(1)
    assert entry.seconds_left is None
    now = 110.0
    write(2)
    assert entry.seconds_left == pytest.approx(20.0)
    now = 113.0
    entry.look()
    assert entry.seconds_left == pytest.approx(17.0)
    assert entry.progress == run_state.Progress(2, 0.5, {"depth/loss": 1.0})


@pytest.mark.parametrize(("duration", "fraction"), [("8 steps", 0.25), ("4 epochs", 0.125), ("32 examples", 0.25)])
def test_the_fraction_of_every_unit_of_durations(tmp_path, duration, fraction):
    command = make(tmp_path, "run", duration=duration)
    command.workdir.mkdir()
    (command.workdir / "metrics.jsonl").write_text('{"step": 2, "epoch": 0.5, "split": "train"}\n')
    assert run_state.read_progress(command).fraction == fraction


def test_the_last_message_of_a_process(tmp_path):
    path = tmp_path / "output.log"
    path.write_text("start\nerror: first\nerror: the reason\n  later line\n\n")
    assert run_state.last_message(path) == "the reason"
    path.write_text("")
    assert run_state.last_message(path) == "(no output)"
