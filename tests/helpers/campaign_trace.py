"""Reports the phases of a run to the campaign that started it, and ends the run at a file operation on request.

Read from the environment: CAMPAIGN_TRACE, the descriptor of a pipe, and CAMPAIGN_KILL, "phase:occurrence:operation".
Only the campaign's configuration file uses this module; the package knows nothing of it.
"""

import functools
import os
import signal
import sys
import threading

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")  # audit events
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
LAST = "exit"  # the phase after the report


class _Tracer:
    """Writes "+phase" when a phase begins and "-phase operations" when it ends.

    Args:
        pipe: descriptor to write to.
        fatal: the phase, its occurrence and the number of the file operation before which the process group is killed,
            all from 1; None for none.
    """

    def __init__(self, pipe, fatal):
        self._pipe, self._fatal = pipe, fatal
        self._lock = threading.Lock()
        self._counts, self._active = {}, {}  # occurrences so far; operations so far of the active ones
        sys.addaudithook(self._audit)

    def begin(self, phase):
        with self._lock:
            self._counts[phase] = self._counts.get(phase, 0) + 1
            self._active[phase] = 0
            os.write(self._pipe, f"+{phase}\n".encode())

    def end(self, phase):
        with self._lock:
            os.write(self._pipe, f"-{phase} {self._active.pop(phase, 0)}\n".encode())

    def wrap(self, phase, owner, name):
        function = getattr(owner, name)

        @functools.wraps(function)
        def traced(*arguments, **options):
            self.begin(phase)
            try:
                return function(*arguments, **options)
            finally:
                self.end(phase)

        setattr(owner, name, traced)

    def _audit(self, event, arguments):
        if event not in CHANGES or not self._active:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return
        for phase in list(self._active):
            self._active[phase] += 1
            if self._fatal == (phase, self._counts[phase], self._active[phase]):
                os.killpg(0, signal.SIGKILL)


def install():
    """Traces the phases of this process, if it was started by the campaign."""
    if "CAMPAIGN_TRACE" not in os.environ:
        return
    from jax._src import compiler

    from mtan_jax.data.preparation import prepare
    from mtan_jax.reporting.metrics_file import MetricsFile
    from mtan_jax.runtime.checkpoint import Checkpoints
    from mtan_jax.runtime.checkpoint_folder import CheckpointFolder
    from mtan_jax.training import evaluation, loop

    phase, occurrence, operation = (os.environ.get("CAMPAIGN_KILL") or ":0:0").split(":")
    tracer = _Tracer(int(os.environ["CAMPAIGN_TRACE"]), (phase, int(occurrence), int(operation)))
    tracer.wrap("prepare", prepare, "prepare")
    tracer.wrap("compile", compiler, "compile_or_get_cached")
    tracer.wrap("restore", Checkpoints, "restore")
    tracer.wrap("train", loop._Training, "run")
    tracer.wrap("log", MetricsFile, "__init__")  # drops lines of an interrupted run
    tracer.wrap("log", MetricsFile, "write")
    tracer.wrap("evaluate", evaluation, "evaluate")
    tracer.wrap("save", Checkpoints, "_write")
    tracer.wrap("commit", CheckpointFolder, "commit")
    tracer.wrap("prune", CheckpointFolder, "delete")
    report = loop.report

    def report_and_exit(*arguments):
        report(*arguments)
        tracer.begin(LAST)

    loop.report = report_and_exit
    tracer.wrap("report", loop, "report")
    tracer.end("start")
