"""Ownership of a folder in a bucket, exclusive among all machines.

Buckets have no locks that end with their owner. The owner therefore rewrites an object every few seconds. If the
object has not changed for a minute, its owner counts as ended, for example because its machine was preempted.
"""

import contextlib
import json
import logging
import os
import platform
import secrets
import sys
import threading
import time
from collections.abc import Iterator

from mtan_jax.runtime import bucket
from mtan_jax.runtime.lock import LockedError

OBJECT = ".lock"  # in the owned folder
SECONDS_BETWEEN_BEATS = 10.0
SECONDS_TO_EXPIRY = 60.0  # without a change

_HELD: dict[str, "Lease"] = {}  # by this process

log = logging.getLogger(__name__)


class Lease:
    """A folder in a bucket that this process owns. Made by `hold`.

    Args:
        path: of the object, "BUCKET/KEY".
    """

    def __init__(self, path: str):
        self._path = path
        self._id = secrets.token_hex(8)
        self._beats = 0
        self._is_lost = False
        self._read_seconds = 0.0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def is_lost(self) -> bool:
        """Whether another process has taken the folder over, or the object was deleted."""
        return self._is_lost

    def acquire(self, what: str) -> None:
        """Acquires the lease, after an earlier lease has been released or has expired.

        Raises:
            LockedError: another process owns the folder.
        """
        while not bucket.create(self._path, self._content()):
            found = bucket.read(self._path)
            if found is None:
                continue
            owner = _owner(found)
            log.info(
                "%s was last used by %s; waiting up to %g s to see whether it has ended", what, owner, SECONDS_TO_EXPIRY
            )
            deadline = time.monotonic() + SECONDS_TO_EXPIRY
            while (now := self._read()) == found:
                if self._read_seconds > SECONDS_BETWEEN_BEATS:  # the owner may not have reached the bucket either
                    deadline = time.monotonic() + SECONDS_TO_EXPIRY
                if time.monotonic() > deadline:
                    log.warning("%s is taken over from %s, which ended without releasing it", what, owner)
                    bucket.delete([self._path])
                    break
                time.sleep(SECONDS_BETWEEN_BEATS / 5)
            else:
                if now is not None:
                    raise LockedError(
                        f"{what} is in use by {_owner(now)}. Wait until it ends, stop it, or use another --workdir."
                    )
        self._thread.start()

    def _read(self) -> bytes | None:
        start = time.monotonic()
        content = bucket.read(self._path)
        self._read_seconds = time.monotonic() - start
        return content

    def release(self) -> None:
        """Deletes the object, unless it belongs to another owner."""
        self._ends.set()
        self._thread.join()
        if not self._is_lost:
            try:
                bucket.delete([self._path])
            except bucket.BucketError as error:
                log.warning("%s; the next run waits until this one's lease expires", error)

    def _renew(self) -> None:
        while not self._ends.wait(SECONDS_BETWEEN_BEATS):
            try:
                found = bucket.read(self._path)
                if found is None or json.loads(found)["id"] != self._id:
                    self._is_lost = True
                    return
                self._beats += 1
                bucket.write(self._path, self._content())
            except (bucket.BucketError, ValueError) as error:  # a save reports it too, and ends the run
                log.warning("%s", error)

    def _content(self) -> bytes:
        owner = {
            "host": platform.node() or "unknown",
            "pid": os.getpid(),
            "command": " ".join(sys.argv),
            "id": self._id,
            "beats": self._beats,
        }
        return json.dumps(owner).encode()


def _owner(content: bytes) -> str:
    try:
        owner = json.loads(content)
        return f"process {owner['pid']} on host {owner['host']} ({owner['command']})"
    except (ValueError, KeyError, TypeError):
        return "an unknown process"


def check(folder: str) -> None:
    """Raises a LockedError if this process owned a folder in a bucket, "BUCKET/KEY", and no longer does."""
    held = _HELD.get(f"{folder}/{OBJECT}")
    if held is not None and held.is_lost():
        raise LockedError(f"gs://{folder} was taken over by another run, so nothing more is written to it")


@contextlib.contextmanager
def hold(folder: str, what: str) -> Iterator[Lease]:
    """Owns a folder in a bucket within the context. Reentrant.

    Args:
        folder: "BUCKET/KEY".
        what: the folder, for messages.

    Raises:
        LockedError: another process owns the folder.
        BucketError: the bucket cannot be read or written.
    """
    path = f"{folder}/{OBJECT}"
    if path in _HELD:
        yield _HELD[path]
        return
    lease = Lease(path)
    lease.acquire(what)
    _HELD[path] = lease
    try:
        yield lease
    finally:
        del _HELD[path]
        lease.release()
