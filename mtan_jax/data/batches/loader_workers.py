"""Starts and stops grain's worker processes, and explains the death of one."""

import multiprocessing
import os
import re
import signal
import sys
import threading
from multiprocessing import resource_tracker

from mtan_jax.data.batches import shared_memory

_UNGUARDED = 113  # exit code of a worker that would start workers itself while it imports the main module
_GRAINS_MESSAGE = re.compile(r"terminated unexpectedly with exit code (-?\d+)")


class WorkerError(RuntimeError):
    """A worker process died; the message names the cause and a remedy."""


def prepare_start() -> None:
    """Must be called before the first worker starts.

    A worker first imports the program's main module. If that starts workers on import, the worker exits here without a
    message; the process that started it raises one (`explain`).
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(_UNGUARDED)
    _silence_resource_tracker()


def _silence_resource_tracker() -> None:
    """Starts Python's resource tracker, which removes the shared memory of dead workers, without its warnings."""
    options = list(sys.warnoptions)
    sys.warnoptions[:] = [*options, "ignore:resource_tracker"]
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions[:] = options


def on_start(index: int, count: int) -> None:
    """Runs in each worker: ignores Ctrl-C, which the main process handles, and exits with the main process."""
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_main_process, daemon=True).start()


def _end_with_main_process() -> None:
    main_process = multiprocessing.parent_process()
    if main_process is not None:
        main_process.join()
        os._exit(1)


def explain(error: RuntimeError, workers: int) -> Exception:
    """Converts an error of grain to a `WorkerError` if a worker died; returns other errors unchanged."""
    found = _GRAINS_MESSAGE.search(str(error))
    return WorkerError(_reason(int(found[1]), workers)) if found else error


def _reason(code: int, workers: int) -> str:
    if code == _UNGUARDED:
        script = getattr(sys.modules["__main__"], "__file__", "the script")
        return (
            f"{script} starts worker processes when it is imported, and each of them imports it: put its main code "
            'below `if __name__ == "__main__":`, or set workers to 0.'
        )
    fewer = f"use fewer workers (config.data.workers = {workers}), or 0 for threads"
    if code == -signal.SIGBUS:
        return (
            f"A worker process died of SIGBUS, most likely because {shared_memory.FOLDER}, through which workers send "
            f"batches, is full: start the container with a larger --shm-size, or {fewer}."
        )
    if code == -signal.SIGKILL:
        return (
            "A worker process was killed (SIGKILL), most likely because it ran out of memory: raise the memory limit "
            f"of the container or job, or {fewer}."
        )
    ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"A worker process {ended}; its output is above. Set workers to 0 to see the error in this process."
