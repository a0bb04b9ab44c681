"""Checksums of the small files of a prepared dataset, which have none of their own, unlike its shards."""

import json
import zlib
from collections.abc import Iterable
from pathlib import Path

CHECKSUMS = "checksums.json"  # in a prepared folder: CRC-32 by file name


def write(folder: Path, names: Iterable[str]) -> None:
    """Stores the checksums of some files of a folder."""
    values = {name: _checksum(folder / name) for name in sorted(names)}
    (folder / CHECKSUMS).write_text(json.dumps(values, indent=1) + "\n")


def check(folder: Path) -> None:
    """Verifies the files of a folder. Older versions stored no checksums.

    Raises:
        ValueError: a file is damaged or missing.
    """
    path = folder / CHECKSUMS
    if not path.exists():
        return
    try:
        values = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{CHECKSUMS} is damaged ({error})") from error
    for name, value in values.items():
        if not (folder / name).exists():
            raise ValueError(f"{name} is missing")
        if _checksum(folder / name) != value:
            raise ValueError(f"{name} is damaged: its checksum is wrong")


def _checksum(path: Path) -> int:
    return zlib.crc32(path.read_bytes())
