"""Runs the commands of a sweep, one process per slot."""

import dataclasses
import functools
import logging
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Protocol

from mtan_jax.config import FREE_FIELDS
from mtan_jax.sweep import launcher, run_state
from mtan_jax.sweep.command import Command
from mtan_jax.sweep.slots import Slot
from mtan_jax.training.config_record import flatten_config

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_TRIES = 3.0  # for a working directory that another process uses
SECONDS_TO_STOP = 60.0  # processes end within 20 s of SIGTERM, and several write to the disk at once


@dataclasses.dataclass(eq=False)
class Entry:
    """A run in a sweep.

    Attributes:
        command: of the run.
        state: what it does now.
        progress: how far it has come.
        message: why it failed.
        process: that trains it, while it is running.
        slot: of the process.
        seconds_left: estimate for a running run; None before two rows of metrics.
    """

    command: Command
    state: run_state.State = "waiting"
    progress: run_state.Progress = dataclasses.field(default_factory=run_state.Progress)
    message: str = ""
    process: subprocess.Popen[bytes] | None = None
    slot: Slot | None = None
    seconds_left: float | None = None
    looked_at: float = -1e9  # when a working directory in use was looked at
    timed_from: tuple[float, float] | None = None  # time and fraction of the first row that this process has written
    changed: tuple[float, float] | None = None  # the same of the newest row

    @property
    def output(self) -> pathlib.Path:
        """The file that the output of the processes is appended to."""
        return self.command.workdir / run_state.OUTPUT_FILE

    @functools.cached_property
    def program(self) -> dict[str, object]:
        """What distinguishes the compiled programs of two runs: all fields but the seed and those without effect."""
        fields = flatten_config(self.command.config)
        return {name: value for name, value in fields.items() if name not in ("seed", *FREE_FIELDS)}

    def read_progress(self) -> run_state.Progress:
        """The progress; what is known already if the metrics are damaged, which the run itself reports."""
        try:
            return run_state.read_progress(self.command)
        except ValueError:
            return self.progress

    def look(self) -> None:
        """Reads the progress, and estimates the time left."""
        progress, now = self.read_progress(), time.monotonic()
        if progress.step != self.progress.step:
            self.changed = now, progress.fraction
            self.timed_from = self.timed_from or self.changed
        self.progress = progress
        if self.timed_from and self.changed and self.changed[1] > self.timed_from[1]:
            rate = (self.changed[1] - self.timed_from[1]) / (self.changed[0] - self.timed_from[0])
            self.seconds_left = max((1 - self.changed[1]) / rate - (now - self.changed[0]), 0.0)


class Display(Protocol):
    """Shows the runs of a sweep."""

    def update(self, entries: Sequence[Entry]) -> None:
        """Shows the present state; called about twice per second."""


class Scheduler:
    """Runs the commands of a sweep until all are complete or have failed.

    Runs that are complete are not started. A run in whose working directory another process trains is waited for, so
    that several machines can work on one sweep in a shared folder. A run that fails stops nothing.

    Args:
        commands: the runs.
    """

    def __init__(self, commands: Sequence[Command]):
        self.entries = [Entry(command) for command in commands]
        for entry in self.entries:
            self._find_complete(entry)

    @property
    def has_work(self) -> bool:
        """Whether a run is neither complete nor failed."""
        return any(entry.state not in ("complete", "failed") for entry in self.entries)

    def run(self, slots: Sequence[Slot], display: Display) -> None:
        """Runs what is missing.

        If an exception such as KeyboardInterrupt ends this method, the processes are sent SIGTERM, on which they save
        their state, and are waited for. A second exception kills them.

        Args:
            slots: one process runs per slot.
            display: shows the progress.
        """
        try:
            while self.has_work:
                self._start(slots)
                display.update(self.entries)
                time.sleep(SECONDS_BETWEEN_LOOKS)
                for entry in self.entries:
                    self._look(entry)
            display.update(self.entries)
        except BaseException:
            self._stop()
            display.update(self.entries)
            raise

    def _start(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            if all(entry.slot is not slot for entry in self.entries):
                entry = self._next()
                if entry is None:
                    return
                self._launch(entry, slot)

    def _next(self) -> Entry | None:
        """The next run that can start: preferably with a program that no running process may be compiling."""
        waiting = []
        for entry in self.entries:
            if entry.state == "waiting":
                if run_state.is_in_use(entry.command):
                    entry.state, entry.looked_at = "running elsewhere", time.monotonic()
                else:
                    waiting.append(entry)
        compiling = [entry.program for entry in self.entries if entry.process is not None and entry.timed_from is None]
        return next((entry for entry in waiting if entry.program not in compiling), next(iter(waiting), None))

    def _launch(self, entry: Entry, slot: Slot) -> None:
        entry.timed_from = entry.changed = entry.seconds_left = None
        entry.progress = entry.read_progress()  # rows of earlier processes do not count for the time left
        try:
            entry.process = self._open_process(entry, slot)
        except OSError as error:  # of this run's folder
            entry.state, entry.message = "failed", f"cannot be started: {error}"
            return
        entry.state, entry.slot = "running", slot

    def _open_process(self, entry: Entry, slot: Slot) -> subprocess.Popen[bytes]:
        entry.command.workdir.mkdir(parents=True, exist_ok=True)
        prefix = [sys.executable, launcher.__file__, str(os.getpid())]
        with entry.output.open("ab") as output:
            output.write(f"$ {entry.command}\n".encode())
            output.flush()
            return subprocess.Popen(
                [*prefix, *entry.command.arguments],
                env={**os.environ, **slot.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process, which tells the others
            )

    def _look(self, entry: Entry) -> None:
        if entry.process is not None:
            code = entry.process.poll()
            entry.look()  # after `poll`, so that it sees all that an ended process has written
            if code is not None:
                self._end(entry, code)
        elif entry.state == "running elsewhere" and time.monotonic() > entry.looked_at + SECONDS_BETWEEN_TRIES:
            entry.looked_at = time.monotonic()
            entry.look()
            if not run_state.is_in_use(entry.command):
                entry.state = "waiting"
                self._find_complete(entry)

    def _find_complete(self, entry: Entry) -> None:
        try:
            if run_state.is_complete(entry.command):
                entry.state, entry.progress = "complete", run_state.read_progress(entry.command)
        except ValueError as error:
            entry.state, entry.message = "failed", str(error)

    def _end(self, entry: Entry, code: int) -> None:
        entry.process = entry.slot = entry.seconds_left = None
        if code == 0:
            entry.state = "complete"
        elif run_state.is_in_use(entry.command):  # another process was faster
            entry.state, entry.looked_at = "running elsewhere", time.monotonic()
        else:
            entry.state = "failed"
            ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            entry.message = f"{run_state.last_message(entry.output)} ({ended}; see {entry.output})"

    def _stop(self) -> None:
        """Lets the processes save their state and end."""
        running = [entry for entry in self.entries if entry.process is not None]
        try:
            for entry in running:
                if entry.process is not None:
                    entry.process.terminate()
            deadline = time.monotonic() + SECONDS_TO_STOP
            for entry in running:
                if entry.process is not None:
                    entry.process.wait(max(deadline - time.monotonic(), 0.1))
        except (KeyboardInterrupt, SystemExit, subprocess.TimeoutExpired):
            log.warning("killing the processes that have not ended; they continue from their last checkpoints")
        for entry in running:
            if entry.process is not None:
                entry.process.kill()
                entry.process.wait()
            entry.process = entry.slot = entry.seconds_left = None
            entry.state = "stopped"
            self._find_complete(entry)
