"""The layout of the MTAN authors' preprocessed sets: `{train,val}/FOLDER/I.npy`, one file an array."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from mtan_jax.data.builder import RawDataError
from mtan_jax.data.checks import check_depth, check_labels
from mtan_jax.data.raw_layout import RawLayout

SPLITS = ("train", "val")


@dataclasses.dataclass(frozen=True)
class NpyLayout:
    """Reads the authors' arrays as they are: nothing is resized or computed.

    Attributes:
        layout: for messages.
        raw_dir: holds `train` and `val`; None where not given.
        folders: the folder of "image" and of each target.
        num_classes: label maps hold -1 (void) to num_classes - 1.
        image_size: height and width that every array must have.
        other: the other layout of this data set, to tell when it was given instead.
    """

    layout: RawLayout
    raw_dir: Path | None
    folders: dict[str, str]
    num_classes: int
    image_size: tuple[int, int]
    other: RawLayout

    def raw_files(self) -> dict[str, int]:
        """Names and sizes of all arrays."""
        if self.raw_dir is None:
            return {}
        paths = [path for split in SPLITS for folder in self.folders.values() for path in self._arrays(split, folder)]
        return {path.relative_to(self.raw_dir).as_posix(): path.stat().st_size for path in paths}

    def check(self) -> None:
        """Raises RawDataError unless each folder holds the same numbers."""
        if self.raw_dir is None or not self.raw_dir.is_dir():
            raise self.layout.missing(self.raw_dir)
        if self.other.lies_in(self.raw_dir) and not self.layout.lies_in(self.raw_dir):
            raise self.layout.wrong_layout(self.raw_dir, self.other)
        for split in SPLITS:
            numbers = {folder: set(self._numbers(split, folder)) for folder in self.folders.values()}
            everything = set().union(*numbers.values())
            if not everything:
                raise self.layout.missing(self.raw_dir, f"{split}/{self.folders['image']} holds no arrays.")
            for folder, found in numbers.items():
                if lacking := sorted(everything - found):
                    raise self.layout.missing(
                        self.raw_dir,
                        f"{split}/{folder}/{lacking[0]}.npy is missing: {split}/{folder} holds {len(found)} arrays, "
                        f"the folders of {split} together have {len(everything)} numbers.",
                    )

    def split_sizes(self) -> dict[str, int]:
        return {split: len(self._numbers(split, self.folders["image"])) for split in SPLITS}

    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        """Yields the examples of a split by number; `id` is such as "nyuv2/train/12"."""
        height, width = self.image_size
        shapes = {
            "image": (height, width, 3),
            "semantic": (height, width),
            "depth": (height, width, 1),
            "normal": (height, width, 3),
        }
        for number in self._numbers(split, self.folders["image"]):
            example: dict[str, Any] = {
                "id": f"{self.layout.dataset.lower()}/{split}/{number}",
                "labelled": {kind: True for kind in self.folders if kind != "image"},
            }
            for kind, folder in self.folders.items():
                path = self._root / split / folder / f"{number}.npy"
                array = _load(path, shapes[kind])
                _check(array, kind, self.num_classes, str(path))
                example[kind] = array.astype(np.int8 if kind == "semantic" else np.float32)
            yield example

    @property
    def _root(self) -> Path:
        if self.raw_dir is None:
            raise self.layout.missing(None)
        return self.raw_dir

    def _arrays(self, split: str, folder: str) -> list[Path]:
        paths = (self._root / split / folder).glob("*.npy")
        return [path for path in paths if re.fullmatch(r"0|[1-9]\d*", path.stem)]

    def _numbers(self, split: str, folder: str) -> list[int]:
        return sorted(int(path.stem) for path in self._arrays(split, folder))


def _load(path: Path, shape: tuple[int, ...]) -> Shaped[np.ndarray, "..."]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RawDataError(f"{path}: truncated or damaged array ({error}). Get this file anew.") from error
    if array.dtype.kind not in "fiub":
        raise RawDataError(f"{path}: expected numbers, got an array of type {array.dtype}.")
    if array.shape[:2] != shape[:2]:
        found = "x".join(map(str, array.shape[:2]))
        wanted = "x".join(map(str, shape[:2]))
        raise RawDataError(
            f"{path}: the array is {found} pixels, but image_size is {wanted}. The layout 'authors' is not resized: "
            f"set image_size to {array.shape[:2]}."
        )
    if array.shape != shape:
        raise RawDataError(f"{path}: got an array of shape {array.shape}, expected {shape}.")
    return array


def _check(array: Shaped[np.ndarray, "h w ..."], kind: str, num_classes: int, name: str) -> None:
    if kind == "semantic":
        check_labels(array, -1, num_classes - 1, name)
    elif kind == "depth":
        check_depth(array, name)
    else:
        # Rounding while the set was made may leave a value a hair outside; anything more is another convention.
        lowest = 0.0 if kind == "image" else -1.0
        wrong = ~((array >= lowest - 1e-3) & (array <= 1 + 1e-3))
        if wrong.any():
            raise RawDataError(f"{name}: {kind} holds {array[wrong][0]}; expected values from {lowest:g} to 1.")
