"""Fingerprints of raw files: they tell whether a prepared dataset still is that of its raw data, and what changed."""

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

MANIFEST = "raw_files.tsv.gz"  # in a prepared folder: name, size and time of each raw file

_SAMPLED_FILES = 256  # whose content is looked at, in as many files or fewer
_SAMPLED_BLOCKS = 256  # of all sampled files together
_BLOCK_BYTES = 16 * 1024


@dataclasses.dataclass(frozen=True)
class RawFile:
    """A raw file as its folder lists it, links followed.

    Attributes:
        name: below the raw folder, "/" between its parts; bytes that are no UTF-8 are escaped.
        size: in bytes.
        modified: time of the last change, in nanoseconds since 1970.
    """

    name: str
    size: int
    modified: int

    def __str__(self) -> str:
        when = dt.datetime.fromtimestamp(self.modified / 1e9).isoformat(" ", "milliseconds")
        return f"{self.size:,} bytes of {when}"

    def to_line(self) -> str:
        """The line of the manifest."""
        return f"{self.name}\t{self.size}\t{self.modified}\n"

    @classmethod
    def from_line(cls, line: str) -> "RawFile":
        """Reads a line of the manifest."""
        name, size, modified = line.rstrip("\n").rsplit("\t", 2)
        return cls(name, int(size), int(modified))


def fingerprint(paths: Iterable[str], root: str | None, manifest: Path | None = None) -> str | None:
    """A digest of names, sizes, times of change and a sample of the content of raw files.

    At most 256 files are sampled, chosen by a checksum of their names, 16 KiB blocks spread over each, so a million
    files cost one `stat` each.

    Args:
        paths: of the files, in a fixed order.
        root: the raw folder.
        manifest: where to write the list of the files.

    Returns:
        The digest; None without any file.

    Raises:
        RawDataError: a file is listed but cannot be read, such as a dangling link.
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
    """Names the raw files that differ from those in a manifest.

    Args:
        paths: as of `fingerprint`.
        root: the raw folder.
        manifest: written by `fingerprint`.
        listed: how many of each kind are named.
    """
    try:
        with gzip.open(manifest, "rt", encoding="utf-8", errors="strict", newline="\n") as file:
            before = {entry.name: entry for entry in map(RawFile.from_line, file)}
    except (OSError, EOFError, ValueError, zlib.error):
        return "it was prepared by a version of this program that kept no list of its raw files"
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
    return "; ".join(parts) or "the content of a file changed, but neither its size nor its time"


def _stat(path: str, root: str | None) -> RawFile:
    try:
        status = os.stat(path)
    except OSError as error:
        raise RawDataError(
            f"{printable(path)}: cannot be read ({error.strerror}). Remove it or put the file in its place."
        ) from error
    name = path.removeprefix(os.path.join(root, "")) if root else path
    return RawFile(printable(name).replace("\t", "\\t").replace("\n", "\\n"), status.st_size, status.st_mtime_ns)


def _keep_smallest(heap: list[tuple[int, str]], entry: tuple[int, str]) -> None:
    """Adds to a heap that holds the `_SAMPLED_FILES` entries with the largest (negated) keys."""
    if len(heap) < _SAMPLED_FILES:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)


def _sample(path: str, blocks: int) -> bytes:
    """A digest of blocks spread over a file, from its first to its last bytes."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            last = max(os.fstat(file.fileno()).st_size - _BLOCK_BYTES, 0)
            for start in sorted({last * i // (blocks - 1) for i in range(blocks)}):
                file.seek(start)
                digest.update(file.read(_BLOCK_BYTES))
    except OSError as error:
        raise RawDataError(f"{printable(path)}: cannot be read ({error.strerror}). Get this file anew.") from error
    return digest.digest()


@contextlib.contextmanager
def _writer(path: Path | None) -> Iterator[Callable[[str], object]]:
    """Gives a function that writes text to a compressed file, the same bytes for the same text; or nowhere."""
    if path is None:
        yield len
        return
    with (
        open(path, "wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text,
    ):
        yield text.write
