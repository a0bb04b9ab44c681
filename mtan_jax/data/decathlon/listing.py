"""Compact lists of the pictures of a set: a million of them take some 20 MB."""

import bisect
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Picture(NamedTuple):
    """A picture of a set; `file` is its path below the set's folder, `label` is -1 where unknown."""

    file: str
    label: int


class Group:
    """The pictures of one folder, which have one label.

    Their names are kept as one text: as strings they would take 90 bytes each, in every process that prepares.

    Args:
        folder: below the set's folder, such as "train/zebra".
        label: of the pictures; -1 where unknown.
        names: of the files, sorted.
    """

    def __init__(self, folder: str, label: int, names: Sequence[str]):
        self.folder = folder
        self.label = label
        self.count = len(names)
        self._joined = "/".join(names)

    def names(self) -> list[str]:
        return self._joined.split("/")


class Split:
    """The pictures of a split, in the order of their groups and names.

    Args:
        groups: none of them empty.
    """

    def __init__(self, groups: Sequence[Group]):
        self.groups = tuple(groups)
        self._ends = list(itertools.accumulate(group.count for group in groups))
        self._opened: tuple[int, list[str]] = (-1, [])  # a group's position and names, as neighbours are asked for

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Picture:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} pictures")
        place = bisect.bisect_right(self._ends, index)
        group = self.groups[place]
        if self._opened[0] != place:
            self._opened = (place, group.names())
        name = self._opened[1][index - self._ends[place] + group.count]
        return Picture(f"{group.folder}/{name}", group.label)

    def labels(self) -> Int[np.ndarray, " n"]:
        """The label of each picture."""
        counts = [group.count for group in self.groups]
        return np.repeat(np.array([group.label for group in self.groups], np.int64), counts)


class Positions:
    """Finds the pictures of a split by their paths. Takes 90 bytes per picture, so drop it after use."""

    def __init__(self, split: Split):
        self._names: dict[str, tuple[int, list[str]]] = {}
        start = 0
        for group in split.groups:
            self._names[group.folder] = (start, group.names())
            start += group.count

    def find(self, file: str) -> int:
        """The index of a picture, by its path below the set's folder; -1 where the split lacks it."""
        folder, _, name = file.rpartition("/")
        start, names = self._names.get(folder, (0, []))
        place = bisect.bisect_left(names, name)
        return start + place if place < len(names) and names[place] == name else -1


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """The pictures of a set.

    Attributes:
        folder: of the set.
        classes: names of the classes, in the order of the labels.
        splits: by name.
    """

    folder: Path
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
