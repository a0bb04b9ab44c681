"""Counts what a listing leaves out, for one line in the log."""

import collections
import os
from collections.abc import Sequence

from mtan_jax.data.raw.image_files import printable


class LeftOut:
    """What is left out of a set, with an example of each kind. `str` is "" where there is nothing."""

    def __init__(self) -> None:
        self._suffixes: collections.Counter[str] = collections.Counter()
        self._counts: collections.Counter[str] = collections.Counter()
        self._first: dict[str, str] = {}

    def add_files(self, folder: str, names: Sequence[str]) -> None:
        """Counts files in a folder that are no pictures, by their suffixes."""
        self._add("file that is no picture", "files that are no pictures", folder, names)
        for name in names:
            self._suffixes[printable(os.path.splitext(name)[1].lower()) or "without suffix"] += 1

    def add_loose_pictures(self, folder: str, names: Sequence[str]) -> None:
        """Counts pictures beside the folders of the classes."""
        self._add("picture outside the class folders", "pictures outside the class folders", folder, names)

    def add_nested_folders(self, folder: str, names: Sequence[str]) -> None:
        """Counts folders inside the folder of a class."""
        self._add("folder inside a class folder", "folders inside class folders", folder, names)

    def _add(self, one: str, many: str, folder: str, names: Sequence[str]) -> None:
        if names:
            kind = f"{one}|{many}"
            self._counts[kind] += len(names)
            self._first.setdefault(kind, printable(os.path.join(folder, names[0])))

    def __str__(self) -> str:
        parts = []
        for kind, count in self._counts.items():
            one, many = kind.split("|")
            suffixes = ", ".join(f"{number:,} {suffix}" for suffix, number in self._suffixes.most_common())
            details = f" ({suffixes})" if "no picture" in kind else ""
            parts.append(f"{count:,} {one if count == 1 else many}{details}, such as {self._first[kind]}")
        return "; ".join(parts)
