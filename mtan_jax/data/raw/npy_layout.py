"""Reads the MTAN authors' preprocessed datasets: `{train,val}/FOLDER/I.npy`, one file per array."""

import dataclasses
import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int8, Shaped

from mtan_jax.data.checks import check_depth, check_labels
from mtan_jax.data.errors import RawDataError
from mtan_jax.data.preparation.preparable import StoredExample
from mtan_jax.data.raw.image_files import is_stray, printable
from mtan_jax.data.raw.raw_layout import RawLayout
from mtan_jax.data.raw.resize import resize_bilinear, resize_nearest

SPLITS = ("train", "val")
CHANNELS = {"image": 3, "semantic": None, "depth": 1, "normal": 3}  # None: a class map [h, w]
VOID = 255  # in label maps stored as uint8, which cannot hold -1

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class NpyLayout:
    """Reads the authors' arrays, and resizes them if their size is not `image_size`.

    Arrays of the right size are kept bit-identical (as float32 and int8). Others are resized like the releases: images
    bilinearly, labels, depth and normals to the nearest pixel.

    Arrays are [h, w, channels] as the authors store them, or [channels, h, w]; the channel axis of depth is optional.
    Any numeric dtype is read: images hold 0..1, or 0..255 as uint8; label maps hold -1 where void, or 255 as uint8.
    Files whose name is not a number are skipped and counted in the log, hidden ones such as `._0.npy` silently.

    Attributes:
        layout: this layout, for messages.
        raw_dir: the folder that holds `train` and `val`; None where there is none.
        folders: the folder of "image" and of each target.
        num_classes: label maps hold -1 (void) to num_classes - 1.
        image_size: height and width of the arrays of an example.
        other: the other layout of this dataset, detected for the error if it is found instead.
    """

    layout: RawLayout
    raw_dir: Path | None
    folders: dict[str, str]
    num_classes: int
    image_size: tuple[int, int]
    other: RawLayout

    def raw_files(self) -> Iterator[str]:
        """Yields the paths of all arrays, by split, folder and number."""
        if self.raw_dir is None or not self.raw_dir.is_dir():
            return
        self._forget()
        for split, folders in self._files.items():
            for folder, names in folders.items():
                for name in names.values():
                    yield os.path.join(self.raw_dir, split, folder, name)

    def check(self) -> None:
        """Raises `RawDataError` unless all folders of a split hold the same numbers; logs any resizing."""
        if self.raw_dir is None or not self.raw_dir.is_dir():
            raise self.layout.missing(self.raw_dir)
        if self.other.lies_in(self.raw_dir) and not self.layout.lies_in(self.raw_dir):
            raise self.layout.wrong_layout(self.raw_dir, self.other)
        self._forget()
        for split, folders in self._files.items():
            numbers = set[int]().union(*folders.values())
            if not numbers:
                raise self.layout.missing(
                    self.raw_dir, f"{split}/{self.folders['image']} holds no arrays named by a number, such as 0.npy."
                )
            for folder, found in folders.items():
                if absent := sorted(numbers - found.keys()):
                    raise self.layout.missing(
                        self.raw_dir,
                        f"{split}/{folder}/{absent[0]}.npy is missing: {split}/{folder} holds {len(found)} arrays, "
                        f"the folders of {split} together have {len(numbers)} numbers.",
                    )
        self._log_skipped()
        self._log_resizing()

    def split_sizes(self) -> dict[str, int]:
        return {split: len(numbers) for split, numbers in self._numbers.items()}

    def example(self, split: str, index: int) -> StoredExample:
        """Reads an example; examples are ordered by file number, and an id is such as "nyuv2/train/12"."""
        number = self._numbers[split][index]
        paths = {kind: self._path(split, folder, number) for kind, folder in self.folders.items()}
        arrays = {kind: self._read(path, kind) for kind, path in paths.items()}
        size = arrays["image"].shape[:2]
        for kind, array in arrays.items():
            if array.shape[:2] != size:
                raise RawDataError(f"{paths[kind]}: {_pixels(array)} pixels, but the image has {_pixels(size)}.")
        if size != self.image_size:
            arrays = {kind: self._resized(array, kind) for kind, array in arrays.items()}
        return {
            "id": f"{self.layout.dataset.lower()}/{split}/{number}",
            "labelled": {kind: True for kind in self.folders if kind != "image"},
            **arrays,
        }

    def close(self) -> None:
        """Does nothing; `example` leaves no file open."""

    def _read(self, path: Path, kind: str) -> Float32[np.ndarray, "h w c"] | Int8[np.ndarray, "h w"]:
        """Reads and checks an array without resizing it."""
        array = _channels_last(_load(path), CHANNELS[kind], str(path))
        if array.dtype == np.uint8 and kind == "image":
            array = array / 255
        elif array.dtype == np.uint8 and kind == "semantic":
            array = np.where(array == VOID, -1, array.astype(np.int16))
        _check(array, kind, self.num_classes, str(path))
        return np.ascontiguousarray(array, np.int8 if kind == "semantic" else np.float32)

    def _resized(self, array: Shaped[np.ndarray, "h w *c"], kind: str) -> Shaped[np.ndarray, "h2 w2 *c"]:
        return (resize_bilinear if kind == "image" else resize_nearest)(array, self.image_size)

    def _log_skipped(self) -> None:
        """Logs the number of other files and folders next to the arrays, in one line."""
        skipped = [
            os.path.join(split, folder, name)
            for split, folders in self._files.items()
            for folder, found in folders.items()
            for name in sorted({*os.listdir(self._root / split / folder)} - {*found.values()})
            if not is_stray(name)
        ]
        if skipped:
            what = (
                "file or folder that is not an array" if len(skipped) == 1 else "files and folders that are not arrays"
            )
            log.warning(
                "%s: skipped %d %s named by a number, such as %s",
                *(self.raw_dir, len(skipped), what, printable(skipped[0])),
            )

    def _log_resizing(self) -> None:
        """Logs the resizing if the first image does not have the size `image_size`."""
        path = self._path(SPLITS[0], self.folders["image"], self._numbers[SPLITS[0]][0])
        found = _channels_last(_load(path, header_only=True), CHANNELS["image"], str(path))
        if found.shape[:2] != self.image_size:
            log.info("%s is %s pixels: resizing to %s", path, _pixels(found), _pixels(self.image_size))

    @property
    def _root(self) -> Path:
        if self.raw_dir is None:
            raise self.layout.missing(None)
        return self.raw_dir

    def _path(self, split: str, folder: str, number: int) -> Path:
        return self._root / split / folder / self._files[split][folder][number]

    @functools.cached_property
    def _files(self) -> dict[str, dict[str, dict[int, str]]]:
        """File names by split, folder and number, in ascending order."""
        return {
            split: {folder: _numbered(self._root / split / folder) for folder in self.folders.values()}
            for split in SPLITS
        }

    @functools.cached_property
    def _numbers(self) -> dict[str, list[int]]:
        return {split: list(folders[self.folders["image"]]) for split, folders in self._files.items()}

    def _forget(self) -> None:
        """Drops the cached listing, so that files added since are found."""
        for name in ("_files", "_numbers"):
            self.__dict__.pop(name, None)


def _numbered(folder: Path) -> dict[int, str]:
    """The file names of the arrays in a folder by number, in ascending order; other files are skipped."""
    found: dict[int, str] = {}
    if not folder.is_dir():
        return found
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(".npy") and entry.is_file())
    for name in names:
        stem = name.removesuffix(".npy")
        if not (stem.isascii() and stem.isdigit()):
            continue
        if int(stem) in found:
            raise RawDataError(f"{folder}: {found[int(stem)]} and {name} have the same number; remove one of them.")
        found[int(stem)] = name
    return dict(sorted(found.items()))


def _load(path: Path, *, header_only: bool = False) -> Shaped[np.ndarray, "..."]:
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r" if header_only else None)
    except (OSError, ValueError, EOFError) as error:
        raise RawDataError(
            f"{path}: truncated or damaged array ({error}). Download or copy this file again."
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise RawDataError(f"{path}: expected numbers, got an array of type {getattr(array, 'dtype', type(array))}.")
    return array


def _channels_last(array: Shaped[np.ndarray, "..."], channels: int | None, name: str) -> Shaped[np.ndarray, "h w *c"]:
    """The array as [h, w, channels], or [h, w] for a class map."""
    count, shape = channels or 1, array.shape
    if count == 1 and array.ndim == 2:
        planes = array[..., None]
    elif array.ndim == 3 and shape[-1] == count:
        planes = array
    elif array.ndim == 3 and shape[0] == count:
        planes = np.moveaxis(array, 0, -1)
    else:
        known = f"[h, w, {count}] or [{count}, h, w]" + (" or [h, w]" if count == 1 else "")
        raise RawDataError(f"{name}: got an array of shape {list(shape)}; expected {known}.")
    if 0 in shape:
        raise RawDataError(f"{name}: got an array of shape {list(shape)}, which holds no pixels.")
    return planes[..., 0] if channels is None else planes


def _check(array: Shaped[np.ndarray, "h w ..."], kind: str, num_classes: int, name: str) -> None:
    if kind == "semantic":
        check_labels(array, -1, num_classes - 1, name)
    elif kind == "depth":
        check_depth(array, name)
    else:
        # A value may be slightly out of range by rounding; more than that is another convention.
        lowest = 0.0 if kind == "image" else -1.0
        wrong = ~((array >= lowest - 1e-3) & (array <= 1 + 1e-3))
        if wrong.any():
            also = ", or uint8 from 0 to 255" if kind == "image" else ""
            raise RawDataError(f"{name}: {kind} holds {array[wrong][0]}; expected values from {lowest:g} to 1{also}.")


def _pixels(array: np.ndarray | tuple[int, ...]) -> str:
    height, width = (array.shape if isinstance(array, np.ndarray) else array)[:2]
    return f"{height}x{width}"
