"""Handles Ctrl-C: prints one line and ends the program.

During startup and shutdown, there is nothing to clean up and the process ends immediately. In between,
KeyboardInterrupt exits all context managers, which finish pending writes, and the process then ends without waiting for
threads: XLA's threads may continue compiling for minutes, and Python crashes if it shuts down before they end.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

MESSAGE = "error: stopped; the same command continues from the last checkpoint, or starts again if there is none"


class Stopped(SystemExit):
    """The program was interrupted and has cleaned up."""

    def __init__(self) -> None:
        super().__init__(MESSAGE)


def end_on_ctrl_c() -> None:
    """Makes Ctrl-C end the process immediately, unless SIGINT is ignored, as for background jobs of a shell."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Makes Ctrl-C raise KeyboardInterrupt within the context, if `end_on_ctrl_c` was called before."""
    if signal.getsignal(signal.SIGINT) is not _end:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _end)


def end() -> None:
    """Ends the process and its children without waiting for threads."""
    for child in multiprocessing.active_children():
        child.kill()
    _end()


def _end(signum: int = signal.SIGINT, frame: FrameType | None = None) -> None:
    with contextlib.suppress(Exception):  # the interrupted code may hold the lock of stdout
        sys.stdout.flush()
    os.write(2, f"{MESSAGE}\n".encode())
    os._exit(1)
