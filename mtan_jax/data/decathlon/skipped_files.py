"""Counts the files and folders that a listing skips, for one line in the log."""

import collections
import os
from collections.abc import Sequence

from mtan_jax.data.raw.image_files import printable

_NON_IMAGE = ("file that is not an image", "files that are not images")


class SkippedFiles:
    """Counts skipped files and folders and keeps an example of each kind. `str` is "" if nothing was skipped."""

    def __init__(self) -> None:
        self._suffixes: collections.Counter[str] = collections.Counter()
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()  # by singular and plural
        self._first: dict[tuple[str, str], str] = {}

    def add_files(self, folder: str, names: Sequence[str]) -> None:
        """Counts files that are not images, by suffix."""
        self._add(_NON_IMAGE, folder, names)
        for name in names:
            self._suffixes[printable(os.path.splitext(name)[1].lower()) or "without suffix"] += 1

    def add_loose_images(self, folder: str, names: Sequence[str]) -> None:
        """Counts images beside the class folders."""
        self._add(("image outside the class folders", "images outside the class folders"), folder, names)

    def add_nested_folders(self, folder: str, names: Sequence[str]) -> None:
        """Counts folders inside a class folder."""
        self._add(("folder inside a class folder", "folders inside class folders"), folder, names)

    def _add(self, kind: tuple[str, str], folder: str, names: Sequence[str]) -> None:
        if names:
            self._counts[kind] += len(names)
            self._first.setdefault(kind, printable(os.path.join(folder, names[0])))

    def __str__(self) -> str:
        parts = []
        for kind, count in self._counts.items():
            suffixes = ", ".join(f"{number:,} {suffix}" for suffix, number in self._suffixes.most_common())
            details = f" ({suffixes})" if kind == _NON_IMAGE else ""
            parts.append(f"{count:,} {kind[count != 1]}{details}, such as {self._first[kind]}")
        return "; ".join(parts)
