"""The program as the campaign starts it: in a folder of its own, with a trace of its phases."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from helpers.compiling import xla_flags
from helpers.whole_run import ROOT, TESTS, free_port

WORK, DATA = "work", "data"  # in the folder of a trial
DEVICES = 2  # per process
# The most specific phase first, which names a moment at which several are active.
PHASES = ("prune", "commit", "log", "compile", "evaluate", "save", "restore", "prepare", "report", "train", "exit")
START, BETWEEN = "start", "between"


@dataclasses.dataclass(frozen=True)
class Moment:
    """A moment of a run: `delay` seconds after a phase has begun for the n-th time, or just before a file operation.

    Attributes:
        phase: one of `PHASES` or `START`.
        occurrence: from 1.
        delay: in seconds.
        operation: number of the file operation within the phase, from 1; 0: by time.
    """

    phase: str
    occurrence: int
    delay: float = 0.0
    operation: int = 0


class Trace:
    """The phases that a process reports through a pipe, read in a thread."""

    def __init__(self, descriptor):
        self.events = [(time.monotonic(), "+", START, 0)]  # time, "+" or "-", phase, file operations
        self._changed = threading.Condition()
        self._is_open = True
        self._thread = threading.Thread(target=self._read, args=(descriptor,), daemon=True)
        self._thread.start()

    def _read(self, descriptor):
        with open(descriptor, "rb", buffering=0) as pipe:
            rest = b""
            while data := pipe.read(1 << 16):
                *lines, rest = (rest + data).split(b"\n")
                with self._changed:
                    for line in lines:
                        phase, _, operations = line[1:].decode().partition(" ")
                        self.events.append((time.monotonic(), line[:1].decode(), phase, int(operations or 0)))
                    self._changed.notify_all()
        with self._changed:
            self._is_open = False
            self._changed.notify_all()

    def wait_for(self, phase, occurrence, seconds=300):
        """Waits until a phase begins; False if the process ends before."""
        with self._changed:
            self._changed.wait_for(lambda: self._count(phase) >= occurrence or not self._is_open, seconds)
            return self._count(phase) >= occurrence

    def _count(self, phase):
        return sum(sign == "+" and name == phase for _, sign, name, _ in self.events)

    def finish(self):
        """Waits until everything is read, which is after the end of the process."""
        self._thread.join(30)

    def active(self):
        """The phases that have begun and not ended."""
        counts = {}
        for _, sign, phase, _ in self.events:
            counts[phase] = counts.get(phase, 0) + (1 if sign == "+" else -1)
        return [phase for phase, count in counts.items() if count > 0]

    def hit(self):
        """The name of the phase in which the process has ended."""
        active = self.active()
        return next((phase for phase in (*PHASES, START) if phase in active), BETWEEN)

    def occurrences(self):
        """By phase, the seconds and the file operations of each of its occurrences; the last one may be unfinished."""
        found, begun = {}, {}
        for moment, sign, phase, operations in self.events:
            if sign == "+":
                begun[phase] = moment
            elif phase in begun:
                found.setdefault(phase, []).append((moment - begun.pop(phase), operations))
        for phase, moment in begun.items():
            found.setdefault(phase, []).append((time.monotonic() - moment, 0))
        return found


class Started:
    """One start of the program, in one or several processes, each of which leads a process group.

    Args:
        folder: where the program runs.
        cache: of compiled programs.
        processes: number of processes.
        kill: a file operation before which process 0 ends itself.
        workers: processes that prepare the dataset.
        flags: further flags.
        output: folder for what the processes write to stderr; None: `folder`.
    """

    def __init__(self, folder, cache, processes=1, kill=None, workers=1, flags=(), output=None):
        self._outputs = pathlib.Path(output or folder)
        together = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={processes}"] if processes > 1 else []
        self.processes, self.traces = [], []
        for i in range(processes):
            command = [sys.executable, "-m", "mtan_jax.main", f"--config={TESTS / 'helpers' / 'campaign_config.py'}"]
            command += [f"--workdir={WORK}", f"--config.data.data_dir={DATA}"]
            command += [f"--config.compilation_cache={cache}", f"--config.data.prepare_workers={workers}"]
            command += [*flags, *together, *([f"--process_id={i}"] if processes > 1 else [])]
            reading, writing = os.pipe()
            environment = {
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": xla_flags(DEVICES),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # small programs are cached too
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)]),
                "CAMPAIGN_TRACE": str(writing),
            }
            if kill is not None and i == 0:
                environment["CAMPAIGN_KILL"] = f"{kill.phase}:{kill.occurrence}:{kill.operation}"
            with open(self._output(i), "wb") as output:
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=output,
                    pass_fds=[writing],
                    start_new_session=True,
                )
            os.close(writing)
            self.processes.append(process)
            self.traces.append(Trace(reading))

    def _output(self, process):
        return self._outputs / f"process{process}.err"

    def read_errors(self, process=0):
        """What a process wrote to stderr, where the package reports its progress too."""
        return self._output(process).read_text(errors="replace")

    def wait_until(self, moment):
        """Waits for a moment; False if the run ends before."""
        if not self.traces[0].wait_for(moment.phase, moment.occurrence):
            return False
        try:
            self.processes[0].wait(moment.delay)
        except subprocess.TimeoutExpired:
            return True
        return moment.operation > 0

    def send(self, signum, process, *, group):
        """Sends a signal to a process or to its group; ignores one that has ended."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.processes[process].pid, signum)

    def wait(self, seconds):
        """Waits until all processes have ended; returns how long that took, or None if some had to be killed."""
        began, deadline = time.monotonic(), time.monotonic() + seconds
        try:
            for process in self.processes:
                process.wait(max(deadline - time.monotonic(), 0))
            return time.monotonic() - began
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.kill()
            for trace in self.traces:
                trace.finish()

    def kill(self):
        for i, process in enumerate(self.processes):
            self.send(signal.SIGKILL, i, group=True)
            process.wait()

    def returncodes(self):
        return [process.returncode for process in self.processes]
