"""Compact lists of a dataset's image files: about 20 MB per million files."""

import bisect
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class ImageFile(NamedTuple):
    """An image file; `file` is its path relative to the dataset's folder, `label` is -1 if unknown."""

    file: str
    label: int


class Group:
    """The image files of one folder, which share one label.

    The names are stored as one string. As separate strings they would take 90 bytes each, in every worker process.

    Args:
        folder: path relative to the dataset's folder, such as "train/zebra".
        label: label of the images; -1 if unknown.
        names: sorted file names.
    """

    def __init__(self, folder: str, label: int, names: Sequence[str]):
        self.folder = folder
        self.label = label
        self.count = len(names)
        self._joined = "/".join(names)

    def names(self) -> list[str]:
        return self._joined.split("/")


class Split:
    """The image files of a split, in the order of groups and names.

    Args:
        groups: non-empty groups.
    """

    def __init__(self, groups: Sequence[Group]):
        self.groups = tuple(groups)
        self._ends = list(itertools.accumulate(group.count for group in groups))
        # The index and names of the last group used, since consecutive examples are usually of one group.
        self._cached: tuple[int, list[str]] = (-1, [])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> ImageFile:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range for a split of {len(self)} images")
        position = bisect.bisect_right(self._ends, index)
        group = self.groups[position]
        if self._cached[0] != position:
            self._cached = (position, group.names())
        name = self._cached[1][index - self._ends[position] + group.count]
        return ImageFile(f"{group.folder}/{name}", group.label)

    def labels(self) -> Int[np.ndarray, " n"]:
        """Returns the label of each image."""
        counts = [group.count for group in self.groups]
        return np.repeat(np.array([group.label for group in self.groups], np.int64), counts)


class Positions:
    """Finds the image files of a split by path. Takes 90 bytes per file, so drop it after use."""

    def __init__(self, split: Split):
        self._names: dict[str, tuple[int, list[str]]] = {}
        start = 0
        for group in split.groups:
            self._names[group.folder] = (start, group.names())
            start += group.count

    def find(self, file: str) -> int:
        """Returns the index of a file by its path relative to the dataset's folder; -1 if it is not in the split."""
        folder, _, name = file.rpartition("/")
        start, names = self._names.get(folder, (0, []))
        position = bisect.bisect_left(names, name)
        return start + position if position < len(names) and names[position] == name else -1


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """The image files of a dataset.

    Attributes:
        folder: the dataset's folder.
        classes: class names, in label order.
        splits: splits by name.
    """

    folder: Path
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
