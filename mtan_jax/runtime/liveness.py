"""Ends all processes of a run if one of them has ended or hangs, and reports long waits.

Every process publishes a counter and its activity in the key-value store of JAX's coordinator, which process 0 hosts,
and reads those of the others:

- A counter that stands still for `DEAD_AFTER` means that the process was killed, is frozen, or has lost its network.
- If the counter goes on but the main thread does not, for example in a dead network file system, the wait is reported
  every minute. The run ends once the activity has taken longer than its limit, which no activity that makes progress
  exceeds. Nothing is lost by that: a run that is stuck would not save either. Waits for a process that is working, such
  as for the preparation of data, have no limit.
- A process that ends with an error publishes it first.

The others then end with one message. JAX would end them too, but after 100 s, without the name of the process. If the
coordinator itself is gone, JAX's client aborts the process at once; a handler of SIGABRT adds the message.
"""

import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import NoReturn, Protocol

from mtan_jax.runtime import activity, mirror
from mtan_jax.runtime.process_status import (
    DEAD_AFTER,
    UNKNOWN,
    Status,
    dead_message,
    gone_message,
    hung_message,
    wait_message,
    waiting_seconds,
)

INTERVAL = 1.0  # seconds between publications
ENDS_WITHIN = 30.0  # seconds from the death of a process to the end of all others
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed
_FOLDER = "mtan_jax/liveness/"
_DEAD_POLLS = round(DEAD_AFTER / INTERVAL)
_LINGER = 4 * INTERVAL  # process 0 keeps the coordinator running so that the others can read why the run ends

log = logging.getLogger(__name__)


class Store(Protocol):
    """Texts by the index of a process, which all processes see."""

    def put(self, index: int, text: str) -> None: ...
    def read(self) -> dict[int, str]: ...


class CoordinatorStore:
    """The key-value store of JAX's coordinator. No other code uses it."""

    def __init__(self) -> None:
        from jax._src import distributed

        client = distributed.global_state.client
        if client is None:
            raise RuntimeError("the processes are not connected")
        self._client = client

    def put(self, index: int, text: str) -> None:
        self._client.key_value_set(f"{_FOLDER}{index}", text, allow_overwrite=True)

    def read(self) -> dict[int, str]:
        return {int(key.rsplit("/", 1)[1]): text for key, text in self._client.key_value_dir_get(_FOLDER)}


class Watch:
    """Publishes the activity of this process and judges those of the others, each in a thread.

    Args:
        index: of this process.
        count: number of processes.
        store: where to publish.
    """

    def __init__(self, index: int, count: int, store: Store):
        self.index, self._count, self._store = index, count, store
        self.host = socket.gethostname()
        self._lock, self._stopped = threading.RLock(), threading.Event()
        self._publications = 0
        self._end: tuple[str, int] | None = None
        self._statuses = dict.fromkeys(range(count), UNKNOWN)
        # How many times in a row `_judge` has seen no answer of the store (under -1) or no new count of a process.
        self._unchanged = dict.fromkeys(range(-1, count), 0)
        self._seen = dict.fromkeys(range(count), 0)
        self._answers = self._answers_seen = 0
        self._reports = activity.Reports()
        self._has_seen_end = False

    def start(self) -> None:
        self._exchange()
        for target in (self._publish, self._judge_often):
            threading.Thread(target=target, name="liveness", daemon=True).start()

    def stop(self) -> None:
        """Ends the watch. No call of the store is in progress afterwards."""
        self._stopped.set()
        if self._lock.acquire(timeout=DEAD_AFTER):
            self._lock.release()

    def _publish(self) -> None:
        while not self._stopped.wait(INTERVAL):
            try:
                self._exchange()
            except Exception:  # `_judge` notices that there was no answer
                continue

    def _exchange(self) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            self._put()
            texts = self._store.read()
            self._statuses |= {i: Status(**json.loads(text)) for i, text in texts.items()}
            self._answers += 1

    def _put(self) -> None:
        now, self._publications = activity.current(), self._publications + 1
        seconds = time.monotonic() - now.since
        text = mirror.renamed(now.text)
        status = Status(self._publications, self.host, text, now.kind, seconds, now.limit, *(self._end or ()))
        self._store.put(self.index, json.dumps(status._asdict()))

    def _judge_often(self) -> None:
        while not self._stopped.wait(INTERVAL):
            self._judge()

    def _judge(self) -> None:
        """Ends this process if another has ended or hangs. Counts calls, since this process may have been frozen."""
        statuses = self._statuses
        ending = [status for i, status in statuses.items() if status.end is not None and i != self.index]
        if ending and self._has_seen_end:  # not at once, because this process may be about to report the same error
            end(str(ending[0].end), ending[0].exit_code)
        self._has_seen_end = bool(ending)
        is_answered, self._answers_seen = self._answers != self._answers_seen, self._answers
        self._unchanged[-1] = 0 if is_answered else self._unchanged[-1] + 1
        if self._unchanged[-1] >= _DEAD_POLLS:
            end(dead_message(0, statuses[0]), EXIT_CODE)
        if not is_answered:
            return
        for i, status in statuses.items():
            self._unchanged[i] = 0 if status.beat != self._seen[i] else self._unchanged[i] + 1
            self._seen[i] = status.beat
            if self._unchanged[i] >= _DEAD_POLLS:
                self.end_all(dead_message(i, status), EXIT_CODE)
        hung = hung_message(statuses)
        if hung is not None:
            self.end_all(hung, EXIT_CODE)
        if self.index == 0 and self._reports.is_due(waiting_seconds(statuses)):
            log.warning("%s", wait_message(statuses))

    def end_all(self, message: str, exit_code: int) -> NoReturn:
        """Prints a message and ends all processes; the one that hosts the coordinator ends last."""
        _print(message)
        self.announce(message, exit_code)
        os._exit(exit_code)

    def announce(self, message: str, exit_code: int) -> None:
        """Makes the other processes end. On process 0, waits until they have. Does nothing once the watch has ended."""
        if self._stopped.is_set():
            return
        self._end = message, exit_code
        announcing = threading.Thread(target=self._exchange_quietly, daemon=True)  # the store may never answer
        announcing.start()
        announcing.join(_LINGER)
        if self.index == 0:
            deadline = time.monotonic() + _LINGER
            while time.monotonic() < deadline and any(self._statuses[i].end is None for i in range(1, self._count)):
                time.sleep(0.1)

    def _exchange_quietly(self) -> None:
        with contextlib.suppress(Exception):  # the others then notice that this process has ended
            self._exchange()

    def explain_abort(self, signum: int) -> None:
        """Handles SIGABRT: ends this process with a message if the coordinator is gone."""
        if not _is_reachable(_coordinator_address()):
            status = self._statuses[0]
            end(status.end or gone_message(status), status.exit_code or EXIT_CODE)


def _coordinator_address() -> str:
    from jax._src import distributed

    return distributed.global_state.coordinator_address or ""


def _is_reachable(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except (OSError, ValueError):
        return False
    return True


_watch: Watch | None = None
_abort_handler: object = None  # kept, because C calls it


def start() -> None:
    """Starts to watch the processes of the run. Call it once they are connected."""
    global _watch, _abort_handler
    from jax._src import distributed

    activity.report_elsewhere()
    state = distributed.global_state
    _watch = Watch(state.process_id, state.num_processes, CoordinatorStore())
    _watch.start()
    if state.process_id > 0 and sys.platform == "linux":
        # JAX's client calls abort() in a thread of C++ when it loses the coordinator. A handler of Python's `signal`
        # would never run. This one is reset when it is called, so a second abort ends the process in any case.
        _abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_watch.explain_abort)
        ctypes.CDLL(None).sysv_signal(signal.SIGABRT, _abort_handler)


def stop() -> None:
    """Ends the watch, before the processes disconnect."""
    if _watch is not None:
        _watch.stop()


def announce(what: str, exit_code: int) -> None:
    """Makes the other processes end because this one does.

    Args:
        what: happened to this process, such as "has failed: no space left".
        exit_code: of the other processes.
    """
    if _watch is not None:
        _watch.announce(f"process {_watch.index} on host {_watch.host} {what}", exit_code)


def wait_if_others_caused(error: BaseException) -> None:
    """Waits for the message about another process if an error of JAX may be due to its end. Does not return then."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    # Gloo, which connects CPUs, raises ValueErrors.
    texts = [str(each) for each in causes if type(each).__name__ == "JaxRuntimeError" or "Gloo" in str(each)]
    if _watch is not None and texts and "RESOURCE_EXHAUSTED" not in texts[-1]:
        time.sleep(ENDS_WITHIN - _LINGER)


def end(message: str, exit_code: int) -> NoReturn:
    """Prints a message and ends this process without waiting for threads."""
    _print(message)
    os._exit(exit_code)


_printing = threading.Lock()


def _print(message: str) -> None:
    _printing.acquire()  # for good: nothing is printed after the reason why the run ends
    os.write(2, f"error: {message}\n".encode())
