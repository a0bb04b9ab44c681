"""Fingerprints of raw files, which detect that a prepared dataset is out of date and what changed."""

import contextlib
import dataclasses
import datetime as dt
import gzip
import hashlib
import heapq
import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mtan_jax.data.errors import RawDataError
from mtan_jax.data.raw.image_files import printable

MANIFEST = "raw_files.tsv.gz"  # in a prepared folder: name, size and modification time of each raw file

_SAMPLED_FILES = 256  # the maximum number of files whose content is sampled
_SAMPLED_BLOCKS = 256  # in all sampled files together
_BLOCK_BYTES = 16 * 1024


@dataclasses.dataclass(frozen=True)
class RawFile:
    """The `stat` of a raw file, links followed.

    Attributes:
        name: path relative to the raw folder, with "/" as separator; bytes that are not UTF-8 are escaped.
        size: in bytes.
        modified: modification time in nanoseconds since 1970.
    """

    name: str
    size: int
    modified: int

    def __str__(self) -> str:
        when = dt.datetime.fromtimestamp(self.modified / 1e9).isoformat(" ", "milliseconds")
        return f"{self.size:,} bytes from {when}"

    def to_line(self) -> str:
        """Formats a line of the manifest."""
        return f"{self.name}\t{self.size}\t{self.modified}\n"

    @classmethod
    def from_line(cls, line: str) -> "RawFile":
        """Parses a line of the manifest."""
        name, size, modified = line.rstrip("\n").rsplit("\t", 2)
        return cls(name, int(size), int(modified))


def fingerprint(paths: Iterable[str], root: str | None, manifest: Path | None = None) -> str | None:
    """Computes a digest of the names, sizes, modification times and a sample of the content of raw files.

    At most 256 files, chosen by a checksum of their names, are sampled in 16 KiB blocks spread over each. All others
    only cost a `stat`.

    Args:
        paths: of the files, in a fixed order.
        root: the raw folder.
        manifest: the file to which the list of raw files is written, if any.

    Returns:
        The digest; None if there are no files.

    Raises:
        RawDataError: a listed file cannot be read, for example because it is a dangling link.
    """
    digest, count = hashlib.blake2b(digest_size=16), 0
    sampled: list[tuple[int, str]] = []
    with _writer(manifest) as write:
        for path in paths:
            file = _stat(path, root)
            line = file.to_line()
            digest.update(line.encode())
            write(line)
            count += 1
            _keep_smallest(sampled, (-zlib.crc32(file.name.encode()), path))
    for path in sorted(path for _, path in sampled):
        digest.update(_sample(path, max(_SAMPLED_BLOCKS // len(sampled), 2)))
    return digest.hexdigest() if count else None


def changes(paths: Iterable[str], root: str | None, manifest: Path, listed: int = 3) -> str:
    """Describes which raw files differ from those in a manifest.

    Args:
        paths: as in `fingerprint`.
        root: as in `fingerprint`.
        manifest: written by `fingerprint`.
        listed: the maximum number of files named as changed, new and gone.
    """
    try:
        with gzip.open(manifest, "rt", encoding="utf-8", errors="strict", newline="\n") as file:
            before = {entry.name: entry for entry in map(RawFile.from_line, file)}
    except (OSError, EOFError, ValueError, zlib.error):
        return "it was prepared by an older version that stored no list of raw files"
    kinds: dict[str, list[str]] = {"changed": [], "new": [], "gone": []}
    for path in paths:
        now = _stat(path, root)
        old = before.pop(now.name, None)
        if old is None:
            kinds["new"].append(now.name)
        elif old != now:
            kinds["changed"].append(f"{now.name} ({old}, now {now})")
    kinds["gone"] = list(before)
    parts = [
        f"{len(names):,} {kind}: {', '.join(names[:listed])}{', ...' if len(names) > listed else ''}"
        for kind, names in kinds.items()
        if names
    ]
    return "; ".join(parts) or "the content of a file changed, but not its size or modification time"


def _stat(path: str, root: str | None) -> RawFile:
    try:
        status = os.stat(path)
    except OSError as error:
        raise RawDataError(
            f"{printable(path)}: cannot be read ({error.strerror}). Remove it or restore the file."
        ) from error
    name = path.removeprefix(os.path.join(root, "")) if root else path
    return RawFile(printable(name).replace("\t", "\\t").replace("\n", "\\n"), status.st_size, status.st_mtime_ns)


def _keep_smallest(heap: list[tuple[int, str]], entry: tuple[int, str]) -> None:
    """Adds to a heap of at most `_SAMPLED_FILES` entries, those with the largest (negated) keys."""
    if len(heap) < _SAMPLED_FILES:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)


def _sample(path: str, blocks: int) -> bytes:
    """Computes a digest of blocks spread evenly over a file, from its first to its last byte."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            last = max(os.fstat(file.fileno()).st_size - _BLOCK_BYTES, 0)
            for start in sorted({last * i // (blocks - 1) for i in range(blocks)}):
                file.seek(start)
                digest.update(file.read(_BLOCK_BYTES))
    except OSError as error:
        raise RawDataError(
            f"{printable(path)}: cannot be read ({error.strerror}). Download or copy this file again."
        ) from error
    return digest.digest()


@contextlib.contextmanager
def _writer(path: Path | None) -> Iterator[Callable[[str], object]]:
    """Yields a function that writes text to a gzip file, deterministically; without a path it writes nothing."""
    if path is None:
        yield len
        return
    with (
        open(path, "wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text,
    ):
        yield text.write
