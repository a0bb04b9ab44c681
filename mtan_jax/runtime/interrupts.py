"""Ctrl-C: one line and the end of the program, at any moment.

While the program starts and while it ends, there is nothing to tidy up: the process ends at once. In between,
KeyboardInterrupt leaves every context manager, so that what was begun is written; the process then ends without waiting
for threads. XLA's threads go on compiling for minutes, and Python crashes where it ends under them.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

MESSAGE = "error: stopped; run the same command to continue"


class Stopped(SystemExit):
    """The program was interrupted, and has tidied up."""

    def __init__(self) -> None:
        super().__init__(MESSAGE)


def end_on_ctrl_c() -> None:
    """Lets Ctrl-C end the process at once, unless it is ignored, as in a shell's background."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Lets Ctrl-C raise KeyboardInterrupt while the context is open, where `end_on_ctrl_c` was called before."""
    if signal.getsignal(signal.SIGINT) is not _end:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _end)


def end() -> None:
    """Ends the process and its children, without waiting for threads."""
    for child in multiprocessing.active_children():
        child.kill()
    _end()


def _end(signum: int = signal.SIGINT, frame: FrameType | None = None) -> None:
    with contextlib.suppress(Exception):  # whatever was interrupted may be writing
        sys.stdout.flush()
    os.write(2, f"{MESSAGE}\n".encode())
    os._exit(1)
