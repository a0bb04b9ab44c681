"""Ends the program on Ctrl-C (SIGINT) and on SIGTERM, which clusters and spot machines send.

The effect of the first signal depends on when it arrives:

- During startup and shutdown there is nothing to clean up, and the process ends at once. In a run of several processes,
  a process first waits until it is connected, so that it can inform the others.
- Within `raised`, the main thread raises KeyboardInterrupt, which exits all context managers.
- Within `deferred`, training completes its step, saves a checkpoint and raises `Stopped`.

A second signal ends the process at once. If the process is still running some time after the first signal, for example
because XLA is compiling, which Python cannot interrupt, a watching thread ends it. The exit code is 128 plus the number
of the signal. The process ends without waiting for other threads: XLA's may continue compiling for minutes, and Python
crashes if it shuts down before they end.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Literal, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
CONTINUES = "the same command continues from the last checkpoint, or starts again if there is none"
PATIENCE = 20.0  # seconds from the first signal to the end of the process
BLOCKED = 3.0  # seconds after which a main thread that does not react counts as blocked
_TRACE = b"(most recent call first)"  # faulthandler writes this once per signal


class Stopped(SystemExit):
    """A signal stopped the program, which has cleaned up.

    Args:
        message: what was done, and how to go on.
        together: whether all processes of the run stop at this point.
    """

    def __init__(self, message: str, *, together: bool = False):
        super().__init__(message)
        self.together = together


class _Signals:
    """The handling of signals, and those received so far."""

    def __init__(self, mode: Literal["end", "defer"]) -> None:
        self.mode: Literal["end", "raise", "defer"] = mode
        self.first: int | None = None
        self.is_handled = False  # whether the main thread has reacted to the first one
        self.is_shared = False  # whether JAX handles SIGTERM too
        self.announce: Callable[[], None] = lambda: None
        self._ignored = 0  # signals that this process has sent to itself
        self._read, self.write = os.pipe()
        os.set_blocking(self.write, False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Reacts in the main thread, as soon as that executes Python."""
        is_first = not self.is_handled
        self.first, self.is_handled = self.first or signum, True
        if self.mode == "end":
            self._end()
        if self.mode == "raise":
            raise KeyboardInterrupt
        if is_first and self.is_shared:
            self._ignored += 1
            os.kill(os.getpid(), signal.SIGTERM)  # JAX tells the other processes

    def _watch(self) -> None:
        """Reacts in a thread of its own, which also runs while the main thread is blocked."""
        started, deadline = 0.0, None
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            if not select.select([self._read], [], [], left)[0]:
                if not (self.is_handled or self.mode == "defer") or time.monotonic() >= started + PATIENCE:
                    self._end()
                deadline = started + PATIENCE
                continue
            data = os.read(self._read, 1 << 16)
            received = [signum for signum in data if signum in SIGNALS] + [signal.SIGTERM] * data.count(_TRACE)
            for signum in received:
                if self._ignored and signum == signal.SIGTERM:
                    self._ignored -= 1
                elif deadline is None:
                    self.first, started = self.first or signum, time.monotonic()
                    deadline = started + BLOCKED
                else:
                    end(f"stopped by a second signal; {CONTINUES}")

    def unraisable(self, args: "sys.UnraisableHookArgs") -> None:
        """Ends the process if Python has ignored a KeyboardInterrupt, which it does in finalizers."""
        if self.first is not None and issubclass(args.exc_type, KeyboardInterrupt):
            self._end()
        sys.__unraisablehook__(args)

    def _end(self) -> NoReturn:
        self.announce()
        end(f"stopped; {CONTINUES}")


_signals: _Signals | None = None


def install(*, connects: bool = False) -> None:
    """Handles SIGINT and SIGTERM from now on, unless they are ignored, as SIGINT is in background jobs of a shell.

    On Windows, where pipes cannot be watched, Python's own handlers remain.

    Args:
        connects: whether this is one of several processes, which must connect before it can end: the others would wait
            for it for minutes. A signal during startup then waits for `raise_if_received`.
    """
    global _signals
    if sys.platform == "win32":
        return
    handled = [signum for signum in SIGNALS if signal.getsignal(signum) in (signal.default_int_handler, signal.SIG_DFL)]
    if not handled:
        return
    _signals = _Signals("defer" if connects else "end")
    signal.set_wakeup_fd(_signals.write, warn_on_full_buffer=False)
    sys.unraisablehook = _signals.unraisable
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # signals of a child are not ours
    for signum in handled:
        signal.signal(signum, _signals.handle)


def share_with_jax(announce: Callable[[], None]) -> None:
    """Notices SIGTERM although JAX handles it in a run of several processes. Call it after they are connected.

    JAX's handler replaces Python's. It makes all processes agree on one step, at which `should_stop` returns True.

    Args:
        announce: tells the other processes that this one ends, if it ends before such a step.
    """
    if _signals is not None:
        _signals.is_shared, _signals.announce = True, announce
        faulthandler.register(signal.SIGTERM, file=_signals.write, all_threads=False, chain=True)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Makes a signal raise KeyboardInterrupt within the context."""
    with _in_mode("raise"):
        yield


def raise_if_received() -> None:
    """Raises KeyboardInterrupt if a signal has been received so far."""
    if _signals is not None and _signals.first is not None:
        raise KeyboardInterrupt


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Makes a signal set `is_requested` within the context."""
    with _in_mode("defer"):
        yield


@contextlib.contextmanager
def _in_mode(mode: Literal["raise", "defer"]) -> Iterator[None]:
    if _signals is None:
        yield
        return
    before, _signals.mode = _signals.mode, mode
    try:
        yield
    finally:
        _signals.mode = before


def is_requested() -> bool:
    """Whether a run of one process has received a signal within `deferred`."""
    return _signals is not None and _signals.mode == "defer" and _signals.first is not None and not _signals.is_shared


def should_stop(step: int) -> bool:
    """Whether training stops after this step; the same on every process. Call it after every step.

    Args:
        step: completed steps.
    """
    import jax  # takes seconds, so not before `install`
    from jax.experimental import multihost_utils

    return is_requested() if jax.process_count() == 1 else multihost_utils.reached_preemption_sync_point(step)


def received() -> signal.Signals:
    """The signal that this process has received, or SIGTERM if another process of the run has received one."""
    first = None if _signals is None else _signals.first
    return signal.SIGTERM if first is None else signal.Signals(first)


def end(message: str) -> NoReturn:
    """Prints one line, and ends the process and its children without waiting for threads."""
    for child in multiprocessing.active_children():
        child.kill()
    with contextlib.suppress(Exception):  # the interrupted code may hold the lock of stdout
        sys.stdout.flush()
    os.write(2, f"error: {message}\n".encode())
    os._exit(128 + received())
