"""Paths given by users, which are local or in a bucket.

A bucket has no append, no rename and no locks, and most libraries read local files only. A path in a bucket therefore
stands for a local mirror: `local` returns its path, on which all code works, `pull` downloads to it and `push` uploads
from it. For other paths, `pull` and `push` do nothing.
"""

import atexit
import contextlib
import functools
import logging
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator

import filelock

from mtan_jax.runtime import bucket, home, lock, paths

SCHEME = "gs://"
LOCK = ".lock"
_TRIES = 5  # of a pull while objects change
_SECONDS_TO_LOCK = 60.0  # a process may not have locked its new folder yet
_TEXT = re.compile(r"gs:/+(?P<bucket>[^/]+)/?(?P<key>.*?)/*", re.DOTALL)  # with one slash after a pathlib.Path

# Size and modification time of each mirrored file when it was last the same as its object.
_SAME: dict[pathlib.Path, tuple[int, int]] = {}

log = logging.getLogger(__name__)

Wanted = Callable[[str], bool]


def local(text: str, name: str, *, keep: bool = False) -> pathlib.Path:
    """Returns the local path of a flag or field: the path itself with ~ expanded, or that of the mirror of a bucket.

    Args:
        text: the value, such as "runs/x" or "gs://BUCKET/runs/x".
        name: name of the flag or field, for messages, such as "--workdir".
        keep: whether a mirror remains on the disk for later processes. Others are private to this process, and deleted
            when it ends.

    Raises:
        PathError: the path is empty, has another scheme, or needs a package that is not installed.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        if paths.is_remote(text):
            raise paths.PathError(f"{name}={text}: only gs:// is supported; use a local folder or gs://BUCKET/FOLDER")
        return paths.local(text, name)
    parts = [part for part in (found["bucket"], *found["key"].split("/")) if part]
    if {".", ".."} & {*parts}:
        raise paths.PathError(f"{name}={text}: '.' and '..' have no meaning in a bucket; write the path without them")
    if not bucket.is_installed():
        raise paths.PathError(f'{name}={text}: a bucket needs gcsfs; install it with pip install "mtan_jax[gcs]"')
    return (_kept() if keep else _private()).joinpath(*parts)


def remote(path: pathlib.Path) -> str | None:
    """The path "BUCKET/KEY" that a local path is the mirror of; None for other paths."""
    for root in _roots():
        if path.is_relative_to(root) and path != root:
            return path.relative_to(root).as_posix()
    return None


def renamed(text: str) -> str:
    """Replaces the paths of mirrors in a message by those of their buckets."""
    for root in _roots():
        text = text.replace(f"{root}{os.sep}", SCHEME)
    return text


def pull(path: pathlib.Path, wanted: Wanted = lambda name: True, *, exact: bool = False) -> list[str]:
    """Makes a mirrored file or folder the same as its bucket; downloads only what differs.

    Files that the bucket lacks are deleted, but from a mirror that remains on the disk only with `exact`.

    Args:
        path: local path.
        wanted: whether to pull a file of the folder, given its relative path. Others are left as they are.
        exact: see above.

    Returns:
        The relative paths of the files that were downloaded.

    Raises:
        BucketError: the bucket cannot be read.
        FileNotFoundError: an object was deleted meanwhile.
    """
    if remote(path) is None:
        return []
    for _ in range(_TRIES - 1):
        with contextlib.suppress(bucket.ChangedError, FileNotFoundError):  # another process writes to the bucket
            return _pull(path, wanted, exact)
    return _pull(path, wanted, exact)


def _pull(path: pathlib.Path, wanted: Wanted, exact: bool) -> list[str]:
    base = remote(path)
    assert base is not None
    found = {name: each for name, each in bucket.find(base).items() if wanted(name) and not name.endswith("/")}
    for name in found:
        if ".." in name.split("/"):
            raise bucket.BucketError(f"the name of gs://{base}/{name} leads out of its folder; rename or delete it")
    files = {name: path / name if name else path for name in found}
    with _alone(path):
        different = [name for name, file in files.items() if not _is_same(file, found[name])]
        bucket.download(
            {_join(base, name): found[name] for name in different},
            {_join(base, name): files[name] for name in different},
        )
        _SAME.update((files[name], _state(files[name])) for name in different)
        if exact or not path.is_relative_to(_kept()):
            for name, file in _files(path):
                if name not in found and wanted(name):
                    file.unlink(missing_ok=True)
    return different


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[None]:
    """Excludes other processes while a mirror changes that remains on the disk."""
    if not path.is_relative_to(_kept()):
        yield
        return
    with lock.hold(home.mirrors() / "kept.lock", f"the local copy of {SCHEME}{remote(path)}", wait=True):
        yield


def push(path: pathlib.Path, wanted: Wanted = lambda name: True) -> None:
    """Uploads the files of a mirrored folder, or a mirrored file, that have changed. Deletes no objects.

    Args:
        path: local path.
        wanted: whether to push a file of the folder, given its relative path. Hidden and temporary files are left out.

    Raises:
        BucketError: the bucket cannot be written.
    """
    base = remote(path)
    if base is None:
        return
    states = {name: (file, _state(file)) for name, file in _files(path) if wanted(name)}
    changed = {name: each for name, each in states.items() if _SAME.get(each[0]) != each[1]}
    bucket.upload({_join(base, name): file for name, (file, _) in changed.items()})
    _SAME.update(changed.values())


def _is_same(file: pathlib.Path, wanted: bucket.Object) -> bool:
    """Whether a local file is a copy of an object."""
    try:
        found = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if found.st_size != wanted.size:
        return False
    if abs(found.st_mtime - wanted.modified) < 1e-3:
        return True
    is_same = bucket.md5(file) == wanted.md5
    if is_same:
        os.utime(file, (wanted.modified, wanted.modified))  # so that it need not be read again
        _SAME[file] = _state(file)
    return is_same


def _files(path: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
    """The files of a folder with their relative paths, or a file with the name ""; no hidden or temporary ones."""
    if path.is_file():
        yield "", path
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not (name.startswith(".") or name.endswith("-tmp"))]
        for name in names:
            if not (name.startswith(".") or name.endswith(".tmp")):
                file = pathlib.Path(folder) / name
                yield file.relative_to(path).as_posix(), file


def _state(file: pathlib.Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _join(base: str, name: str) -> str:
    return f"{base}/{name}" if name else base


def _roots() -> list[pathlib.Path]:
    """The folders of mirrors, if this process has used them."""
    return [folder() for folder in (_private, _kept) if folder.cache_info().currsize]


@functools.cache
def _kept() -> pathlib.Path:
    return home.mirrors() / "kept"


@functools.cache
def _private() -> pathlib.Path:
    """Creates the folder of this process' mirrors, and deletes those of processes that have ended."""
    folder = home.mirrors()
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("process-*"):
        with contextlib.suppress(filelock.Timeout, OSError):
            if time.time() - path.stat().st_mtime > _SECONDS_TO_LOCK:
                with filelock.FileLock(path / LOCK, timeout=0):
                    shutil.rmtree(path, ignore_errors=True)
    path = pathlib.Path(tempfile.mkdtemp(prefix="process-", dir=folder))
    held = filelock.FileLock(path / LOCK, timeout=_SECONDS_TO_LOCK)
    held.acquire()
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    atexit.register(held.release)  # runs before the folder is deleted
    return path
