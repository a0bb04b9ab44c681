"""What the main thread is doing, for messages about long waits and for other processes.

Noting an activity is one assignment, which training does at every step. In a run of one process, a thread that starts
with the first wait reports waits of over a minute. In a run of several processes, `mtan_jax.runtime.liveness` does.
"""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Iterator
from typing import Literal, NamedTuple

SECONDS_BETWEEN_REPORTS = 60.0
SECONDS_BETWEEN_LOOKS = 2.0
HUNG_AFTER = 30 * 60.0  # seconds; no batch, step, checkpoint or barrier takes that long
COMPILING = 2 * 3600.0  # the same for activities that may include compilation

# work: needs no other process; wait: for something outside of the run; together: all processes do it together, so each
# of them waits for the others.
Kind = Literal["work", "wait", "together"]

log = logging.getLogger(__name__)


class Activity(NamedTuple):
    """What a main thread is doing.

    Attributes:
        text: such as "reading the batch of step 7".
        kind: whether it waits, and for whom.
        since: when it began, by this process' monotonic clock in seconds.
        limit: seconds after which it counts as hung; None if it may take any time.
    """

    text: str
    kind: Kind
    since: float
    limit: float | None


_current = Activity("starting", "work", time.monotonic(), None)


def current() -> Activity:
    """The activity of the main thread."""
    return _current


def note(text: str, limit: float | None = HUNG_AFTER) -> None:
    """Notes that all processes begin something together, such as a step. It lasts until the next note.

    Args:
        text: see `Activity`.
        limit: see `Activity`.
    """
    global _current
    if threading.current_thread() is threading.main_thread():
        _current = Activity(text, "together", time.monotonic(), limit)


@contextlib.contextmanager
def doing(text: str, kind: Kind = "work", limit: float | None = HUNG_AFTER) -> Iterator[None]:
    """Notes what the main thread does within the context; does nothing in other threads.

    A wait ("wait") that lasts longer than a minute is reported every minute.

    Args:
        text: see `Activity`.
        kind: see `Activity`.
        limit: see `Activity`.
    """
    global _current
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if kind == "wait":
        _start_reporting()
    before, _current = _current, Activity(text, kind, time.monotonic(), limit)
    yield
    _current = before._replace(since=time.monotonic())  # not after an error, whose message names the activity


class Reports:
    """Decides when a wait is reported: after a minute, and then every minute."""

    def __init__(self) -> None:
        self._count = 0

    def is_due(self, seconds: float) -> bool:
        """Whether to report a wait that has lasted for some seconds, or 0 if nothing waits. Call it repeatedly."""
        before, self._count = self._count, int(seconds / SECONDS_BETWEEN_REPORTS)
        return self._count > before


@functools.cache
def _start_reporting() -> None:
    threading.Thread(target=_report_waits, name="waits", daemon=True).start()


def report_elsewhere() -> None:
    """Leaves reports to `mtan_jax.runtime.liveness`, which reports the waits of all processes."""
    global _is_reported_elsewhere
    _is_reported_elsewhere = True


_is_reported_elsewhere = False


def _report_waits() -> None:
    reports = Reports()
    while True:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        activity = _current
        seconds = time.monotonic() - activity.since if activity.kind == "wait" else 0.0
        if reports.is_due(seconds) and not _is_reported_elsewhere:
            log.warning("%s (for %.0f s)", activity.text, seconds)
