"""Worker processes of grain: their start, their end, and one message where one dies."""

import multiprocessing
import os
import re
import signal
import sys
import threading
from multiprocessing import resource_tracker

from mtan_jax.data.batches import shared_memory

_UNGUARDED = 113  # exit code of a process that would start workers while it imports the program's main module
_GRAINS_MESSAGE = re.compile(r"terminated unexpectedly with exit code (-?\d+)")


class WorkerError(RuntimeError):
    """A worker process died; the message says of what and what to do."""


def prepare_start() -> None:
    """Called before the first worker starts.

    A worker imports the program's main module before anything else. If that asks for workers when it is imported, the
    worker ends here, without a message: the process that started it has one (`explain`).
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(_UNGUARDED)
    _silence_resource_tracker()


def _silence_resource_tracker() -> None:
    """Starts Python's process that removes the shared memory of dead workers so that it does not print warnings."""
    options = list(sys.warnoptions)
    sys.warnoptions[:] = [*options, "ignore:resource_tracker"]
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions[:] = options


def on_start(index: int, count: int) -> None:
    """Runs in each worker. Leaves Ctrl-C to the main process, which ends its workers; ends with the main process."""
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_main_process, daemon=True).start()


def _end_with_main_process() -> None:
    main_process = multiprocessing.parent_process()
    if main_process is not None:
        main_process.join()
        os._exit(1)


def explain(error: RuntimeError, workers: int) -> Exception:
    """The error to raise where grain raised `error`: a `WorkerError` if a worker died, the error itself otherwise."""
    found = _GRAINS_MESSAGE.search(str(error))
    return WorkerError(_reason(int(found[1]), workers)) if found else error


def _reason(code: int, workers: int) -> str:
    if code == _UNGUARDED:
        script = getattr(sys.modules["__main__"], "__file__", "the script")
        return (
            f"{script} asks for worker processes when it is imported, and each of them imports it: put what it runs "
            'below a line `if __name__ == "__main__":`, or set workers to 0.'
        )
    fewer = f"use fewer workers (config.data.workers = {workers}), or 0 for threads"
    if code == -signal.SIGBUS:
        return (
            f"A worker process died of SIGBUS, most likely because {shared_memory.FOLDER}, through which workers hand "
            f"over batches, is full: start the container with a larger --shm-size, or {fewer}."
        )
    if code == -signal.SIGKILL:
        return (
            "A worker process was killed (SIGKILL), most likely because memory ran out: raise the memory limit of the "
            f"container or job, or {fewer}."
        )
    ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"A worker process {ended}; what it printed is above. To see the error in this process, set workers to 0."
