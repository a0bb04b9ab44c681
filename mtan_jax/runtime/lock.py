"""Locks on folders, exclusive among all processes and machines that share the disk.

The lock is the operating system's flock, so it is released when its owner ends, even by SIGKILL or a reboot. On NFS,
Linux maps it to a lock on the server. A file beside the lock describes the owner.
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

from mtan_jax.runtime import activity

log = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 0.5
# How long to wait for an owner to write its description, which it does just after it acquired the lock.
SECONDS_FOR_OWNER = 1.0
# Errors of file systems without locks: not implemented, no lock server for NFS, not supported.
_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}

# Locks held by this process.
_HELD: dict[str, "Held"] = {}
_HELD_LOCK = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_HELD.clear)  # filelock closes the files in a child, which holds no lock


class LockedError(RuntimeError):
    """Another process holds the lock; the message names the process and a remedy."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """The process that holds a lock, or ended without releasing it.

    Attributes:
        host: name of the machine.
        pid: process id on that machine.
        since: when it acquired the lock, with the time zone.
        command: command line.
    """

    host: str
    pid: int
    since: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host} (started {self.since}: {self.command})"


@dataclasses.dataclass(frozen=True)
class Held:
    """A lock held by this process.

    Attributes:
        path: path of the lock file.
        thread: id of the thread that acquired it.
        file: device and inode of the lock file; None on a file system without locks.
    """

    path: pathlib.Path
    thread: int
    file: tuple[int, int] | None

    def is_lost(self) -> bool:
        """Whether the lock file was deleted, moved or replaced, so that others can acquire a lock of that name."""
        return self.file is not None and _identity(self.path) != self.file


@contextlib.contextmanager
def hold(
    path: pathlib.Path, what: str, *, wait: bool, remedy: str = "Wait until it ends, or stop it."
) -> Iterator[Held]:
    """Holds a lock within the context. Reentrant within a thread.

    On a file system without locks, this logs a warning and continues without a lock.

    Args:
        path: path of the lock file, which is created with its folder if missing. It is not deleted afterwards, because
            a lock on a deleted file excludes nobody. The file `path` + ".owner" describes the owner.
        what: the locked thing, for messages, such as "the working directory runs/a".
        wait: whether to wait for another owner, after one log message that names it.
        remedy: what to do about another owner, for the error message.

    Raises:
        LockedError: another process or thread holds the lock and `wait` is False.
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
            "%s cannot be locked because its file system has no file locks (%s); make sure that nothing else uses it",
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
        if not held.is_lost():  # otherwise the file belongs to another owner
            _owner_path(path).unlink(missing_ok=True)
        with _HELD_LOCK:
            _HELD.pop(key, None)
        lock.release()


def is_held(path: pathlib.Path) -> bool:
    """Whether a process holds a lock; False on a file system without locks.

    Args:
        path: path of the lock file, which may be missing.
    """
    if not path.is_file():
        return False
    lock = filelock.FileLock(os.path.realpath(path), timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        return True
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    lock.release()
    return False


def read_owner(path: pathlib.Path) -> Owner | None:
    """Reads the description of the owner, which may have ended. None if it is missing or unreadable.

    Args:
        path: path of the lock file.
    """
    try:
        owner = Owner(**json.loads(_owner_path(path).read_text()))
    except (OSError, ValueError, TypeError):  # missing, incomplete, or another format
        return None
    return owner if isinstance(owner.pid, int) else None


def _acquire(lock: filelock.BaseFileLock, key: str, path: pathlib.Path, what: str, *, wait: bool, remedy: str) -> Held:
    if (held := _try(lock, key, path)) is not None:
        return held
    owner = _name_owner(path)
    if not wait:
        raise LockedError(f"{what} is in use by {owner}. {remedy}")
    log.info("waiting for %s, in use by %s", what, owner)
    with activity.doing(f"waiting for {what}, in use by {owner}", "wait", limit=None):
        while (held := _try(lock, key, path)) is None:
            time.sleep(SECONDS_BETWEEN_TRIES)
    return held


def _try(lock: filelock.BaseFileLock, key: str, path: pathlib.Path) -> Held | None:
    with _HELD_LOCK:
        if key in _HELD:  # because on NFS, a process does not exclude itself
            return None
        try:
            lock.acquire()
        except filelock.Timeout:
            return None
        _HELD[key] = Held(path, threading.get_ident(), _identity(path))
        return _HELD[key]


def _identity(path: pathlib.Path) -> tuple[int, int] | None:
    """Device and inode of a file; None if it is missing."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _name_owner(path: pathlib.Path) -> str:
    """Describes the owner of a held lock, after waiting for its description."""
    deadline = time.monotonic() + SECONDS_FOR_OWNER
    owner = read_owner(path)
    while (owner is None or _has_ended(owner)) and time.monotonic() < deadline:
        time.sleep(0.02)
        owner = read_owner(path)
    return "an unknown process" if owner is None else str(owner)


def _has_ended(owner: Owner) -> bool:
    if os.name != "posix" or owner.host != platform.node():
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # of another user, or not a process id
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
