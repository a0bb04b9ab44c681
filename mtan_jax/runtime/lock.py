"""Locks on folders: one owner at a time, among all processes and machines that share the disk.

The lock is the operating system's (flock), so the end of the owner releases it, whatever ended it: SIGKILL and a reboot
too. On NFS, Linux turns it into a lock on the server. Who the owner is stands in a file beside it.
"""

import contextlib
import dataclasses
import datetime as dt
import errno
import json
import logging
import os
import pathlib
import platform
import sys
import threading
import time
from collections.abc import Iterator

import filelock

log = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 0.5
# An owner names itself just after it got the lock. A process that finds the lock taken gives it so long.
SECONDS_FOR_OWNER = 1.0
# What a file system without locks answers: none at all, no lock server behind NFS, no such operation.
_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}

# Locks that this process holds.
_HELD: dict[str, "Held"] = {}
_HELD_LOCK = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_HELD.clear)  # filelock closes its files there: a child does not own the lock


class LockedError(RuntimeError):
    """Another process holds the lock; the message says which, since when, and what to do."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """The process that holds a lock, or held it and ended without releasing it.

    Attributes:
        host: name of its machine.
        pid: its process id there.
        since: when it took the lock, with the time zone.
        command: its command line.
    """

    host: str
    pid: int
    since: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host} (started {self.since}: {self.command})"


@dataclasses.dataclass(frozen=True)
class Held:
    """A lock that this process holds.

    Attributes:
        path: of the lock.
        thread: that took it.
        file: device and inode of the lock's file; None on a file system without locks.
    """

    path: pathlib.Path
    thread: int
    file: tuple[int, int] | None

    def is_lost(self) -> bool:
        """Whether the file has been deleted, moved or replaced, so that others can take a lock of that name."""
        return self.file is not None and _identity(self.path) != self.file


@contextlib.contextmanager
def hold(
    path: pathlib.Path, what: str, *, wait: bool, remedy: str = "Wait until it ends, or stop it."
) -> Iterator[Held]:
    """Holds a lock while the context is open. A thread that holds it already may take it again.

    On a file system without locks this warns, and holds nothing.

    Args:
        path: of the lock, a small file that is made where it is missing, and its folder with it. It stays: a lock on
            a file that was deleted keeps nobody out. The file `path` + ".owner" names the owner.
        what: is locked, for messages: "the working directory runs/a".
        wait: whether to wait for another owner, after one message that names it.
        remedy: what to do about another owner, for the message of the error.

    Raises:
        LockedError: another process, or another thread of this one, holds the lock and `wait` is False.
        OSError: the files cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    key = os.path.realpath(path)
    if (outer := _HELD.get(key)) is not None and outer.thread == threading.get_ident():
        yield outer
        return
    lock = filelock.FileLock(key, timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        held = _acquire(lock, key, path, what, wait=wait, remedy=remedy)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        log.warning(
            "%s cannot be locked, because its file system has no file locks (%s); make sure that nothing else uses it",
            what,
            error.strerror,
        )
        yield Held(path, threading.get_ident(), None)
        return
    try:
        previous = read_owner(path)
        if previous is not None:
            log.warning("%s is taken over from %s, which ended without releasing it", what, previous)
        _write_owner(path)
        yield held
    finally:
        if not held.is_lost():  # else it is another's
            _owner_path(path).unlink(missing_ok=True)
        with _HELD_LOCK:
            _HELD.pop(key, None)
        lock.release()


def read_owner(path: pathlib.Path) -> Owner | None:
    """The owner that is named beside a lock: it may have ended. None where there is none, or it cannot be read.

    Args:
        path: of the lock.
    """
    try:
        owner = Owner(**json.loads(_owner_path(path).read_text()))
    except (OSError, ValueError, TypeError):  # not there, not written to its end, or of another kind
        return None
    return owner if isinstance(owner.pid, int) else None


def _acquire(lock: filelock.BaseFileLock, key: str, path: pathlib.Path, what: str, *, wait: bool, remedy: str) -> Held:
    waiting = False
    while (held := _try(lock, key, path)) is None:
        if not wait:
            raise LockedError(f"{what} is in use by {_name_owner(path)}. {remedy}")
        if not waiting:
            log.info("waiting for %s, in use by %s", what, _name_owner(path))
            waiting = True
        time.sleep(SECONDS_BETWEEN_TRIES)
    return held


def _try(lock: filelock.BaseFileLock, key: str, path: pathlib.Path) -> Held | None:
    with _HELD_LOCK:
        if key in _HELD:  # on NFS a process does not keep itself out
            return None
        try:
            lock.acquire()
        except filelock.Timeout:
            return None
        _HELD[key] = Held(path, threading.get_ident(), _identity(path))
        return _HELD[key]


def _identity(path: pathlib.Path) -> tuple[int, int] | None:
    """Device and inode of a file; None where there is none."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _name_owner(path: pathlib.Path) -> str:
    """Names the owner of a lock that is taken, once it has written who it is."""
    deadline = time.monotonic() + SECONDS_FOR_OWNER
    owner = read_owner(path)
    while (owner is None or _has_ended(owner)) and time.monotonic() < deadline:
        time.sleep(0.02)
        owner = read_owner(path)
    return "a process that has not named itself" if owner is None else str(owner)


def _has_ended(owner: Owner) -> bool:
    if os.name != "posix" or owner.host != platform.node():
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's, or no process id
        return False
    return False


def _write_owner(path: pathlib.Path) -> None:
    since = dt.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    owner = Owner(platform.node() or "unknown", os.getpid(), since, " ".join(sys.argv))
    partial = path.with_name(path.name + ".owner.tmp")
    partial.write_text(json.dumps(dataclasses.asdict(owner)) + "\n")
    partial.replace(_owner_path(path))


def _owner_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".owner")
