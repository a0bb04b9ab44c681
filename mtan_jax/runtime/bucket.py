"""Reads and writes objects in Google Cloud Storage. Retries while the service does not answer.

Paths are "BUCKET/KEY", without a scheme. No other file uses gcsfs.
"""

import base64
import concurrent.futures
import contextlib
import dataclasses
import datetime as dt
import errno
import functools
import hashlib
import logging
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from gcsfs.core import GCSFileSystem

PATIENCE = 300.0  # seconds of retries before an operation fails
REQUEST_SECONDS = 120.0  # the longest that one request may take
TRANSFERS = 8  # concurrent transfers
_AT_ONCE = 1 << 26  # bytes of the largest file that is read into memory
_LONGEST_PAUSE = 20.0  # seconds between retries
# Errors of the local disk, which a retry does not fix.
_LOCAL = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR}

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class BucketError(RuntimeError):
    """A bucket cannot be read or written; the message names the object, the reason and a remedy."""


class ChangedError(BucketError):
    """An object is no longer that which `find` has seen."""


@dataclasses.dataclass(frozen=True)
class Object:
    """Properties of an object.

    Attributes:
        size: in bytes.
        modified: seconds since the epoch, as measured by the service.
        md5: digest of the content; None for a composite object.
    """

    size: int
    modified: float
    md5: bytes | None


def is_installed() -> bool:
    """Whether gcsfs can be imported."""
    try:
        import gcsfs.core  # noqa: F401
    except ImportError:
        return False
    return True


def find(path: str) -> dict[str, Object]:
    """Returns the objects below a path by their name relative to it; the object of that path itself has the name "".

    Raises:
        BucketError: there is no such bucket, or access is denied.
    """
    with _existing(path):
        found = _retry(f"list gs://{path}", lambda: _filesystem().find(path, detail=True))
    return {name[len(path) :].lstrip("/"): _object(info) for name, info in found.items()}


def read(path: str) -> bytes | None:
    """Returns the content of an object; None if there is none."""
    try:
        return _retry(f"read gs://{path}", lambda: _filesystem().cat_file(path))
    except FileNotFoundError:
        return None


def write(path: str, content: bytes) -> None:
    """Writes an object."""
    with _existing(path):
        _retry(f"write gs://{path}", lambda: _filesystem().pipe_file(path, content))


def create(path: str, content: bytes) -> bool:
    """Writes an object unless it exists; returns whether it was written. Atomic among all machines."""
    try:
        with _existing(path):
            _retry(f"write gs://{path}", lambda: _filesystem().pipe_file(path, content, mode="create"))
    except FileExistsError:
        return read(path) == content  # a retry meets the object that the first try wrote
    return True


def upload(files: Mapping[str, pathlib.Path]) -> None:
    """Uploads local files, given by the path of their object; returns when all are stored.

    A small file may grow meanwhile, as a log does: a part of it is stored.
    """

    def put(path: str, file: pathlib.Path) -> None:
        if file.stat().st_size <= _AT_ONCE:
            write(path, file.read_bytes())
            return
        with _existing(path):
            _retry(f"write gs://{path}", lambda: _filesystem().put_file(os.fspath(file), path))

    _each(put, files.items())


def download(objects: Mapping[str, Object], files: Mapping[str, pathlib.Path]) -> None:
    """Downloads objects to local files, each of which appears only when it is complete.

    The modification time of a file is that of its object.

    Args:
        objects: by path, as found by `find`.
        files: the local file of each path.

    Raises:
        FileNotFoundError: an object no longer exists.
        ChangedError: the content of an object is not that which `find` has seen.
        BucketError: an object cannot be read.
    """

    def get(path: str, file: pathlib.Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}.part")
        try:
            _retry(f"read gs://{path}", lambda: _get(path, partial, objects[path]))
            os.utime(partial, (objects[path].modified, objects[path].modified))
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    _each(get, files.items())


def delete(paths: Iterable[str]) -> None:
    """Deletes objects; missing ones are ignored."""

    def remove(path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            _retry(f"delete gs://{path}", lambda: _filesystem().rm_file(path))

    _each(remove, ((path,) for path in paths))


def copy(path: str, target: str) -> None:
    """Copies an object within the service."""
    _retry(f"copy gs://{path}", lambda: _filesystem().cp_file(path, target))


def md5(file: pathlib.Path) -> bytes:
    """The MD5 digest of a local file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, functools.partial(hashlib.md5, usedforsecurity=False)).digest()


@functools.cache
def _filesystem() -> "GCSFileSystem":
    from gcsfs.core import GCSFileSystem  # `gcsfs.GCSFileSystem` also asks for the kind of each bucket

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs each error with a traceback before it raises it
    return GCSFileSystem(requests_timeout=REQUEST_SECONDS, use_listings_cache=False, consistency="md5")


def _object(info: Mapping[str, object]) -> Object:
    modified = info.get("mtime") or info["updated"]
    if isinstance(modified, str):
        modified = dt.datetime.fromisoformat(modified)
    assert isinstance(modified, dt.datetime)
    md5 = info.get("md5Hash")
    return Object(int(str(info["size"])), modified.timestamp(), base64.b64decode(str(md5)) if md5 else None)


def _get(path: str, file: pathlib.Path, expected: Object) -> None:
    _filesystem().get_file(path, os.fspath(file), consistency="none")  # gcsfs cannot check composite objects
    size = file.stat().st_size
    if size != expected.size:
        raise ChangedError(f"gs://{path} changed while it was read: got {size} of {expected.size} bytes")
    if expected.md5 and md5(file) != expected.md5:
        raise ChangedError(f"gs://{path} changed while it was read: it does not match its MD5 digest")


def _each(function: Callable[..., None], arguments: Iterable[tuple]) -> None:
    """Calls a function with each of the arguments, several at a time; raises the first error."""
    with concurrent.futures.ThreadPoolExecutor(TRANSFERS, thread_name_prefix="bucket") as pool:
        try:
            for future in concurrent.futures.as_completed([pool.submit(function, *each) for each in arguments]):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextlib.contextmanager
def _existing(path: str) -> Iterator[None]:
    """Explains that the bucket of a path is missing."""
    try:
        yield
    except FileNotFoundError as error:
        name = path.partition("/")[0]
        raise BucketError(f"gs://{path}: there is no bucket {name!r}, or this account cannot see it") from error


def _retry(what: str, function: Callable[[], Result]) -> Result:
    """Calls a function until it succeeds; gives up after `PATIENCE` seconds, or at an error that will not go away."""
    deadline, pause = time.monotonic() + PATIENCE, 1.0
    while True:
        try:
            return function()
        except (FileNotFoundError, FileExistsError, ChangedError):
            raise
        except Exception as error:  # gcsfs raises many types
            if (remedy := _remedy(error)) is not None:
                raise BucketError(f"cannot {what}: {_reason(error)}{remedy}") from error
            if time.monotonic() + pause > deadline:
                raise BucketError(
                    f"cannot {what}: {_reason(error)}; tried for {PATIENCE:g} s. Run the same command again when the "
                    "bucket can be reached"
                ) from error
            log.warning("cannot %s now (%s); trying again in %g s", what, _reason(error), pause)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _remedy(error: Exception) -> str | None:
    """What to do about an error that a retry does not fix; None for others."""
    code = getattr(error, "code", None)
    if isinstance(error, OSError) and error.errno in _LOCAL:
        return ""
    if type(error).__name__ == "DefaultCredentialsError" or code in (401, "401"):
        return ". Log in with `gcloud auth application-default login`, or give this machine a service account"
    if str(error).startswith("Forbidden") or code in (403, "403"):
        return ". Give this account the role roles/storage.objectAdmin on the bucket"
    if isinstance(error, ValueError | TypeError) or (str(code).isdecimal() and 400 <= int(str(code)) < 500):
        return "" if code not in (408, 429, "408", "429") else None
    return None


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(": ")[:200]
