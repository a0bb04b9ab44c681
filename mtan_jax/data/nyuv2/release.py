"""Reads the official release of NYUv2: `nyu_depth_v2_labeled.mat`, an HDF5 file (MATLAB v7.3), and `splits.mat`."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from mtan_jax.data.checks import check_depth, check_labels
from mtan_jax.data.errors import RawDataError
from mtan_jax.data.nyuv2 import classes
from mtan_jax.data.nyuv2.layouts import AUTHORS, MAT, RELEASE, SPLITS_MAT
from mtan_jax.data.nyuv2.normals import NYUV2_CAMERA, normals_from_depth
from mtan_jax.data.raw.resize import nearest_pixels, resize_bilinear, resize_nearest

if TYPE_CHECKING:
    import h5py

# MATLAB reverses the axes: [frame, channel, column, row]. The camera model assumes 640 columns and 480 rows.
_SHAPES = {"images": (3, 640, 480), "depths": (640, 480), "labels": (640, 480)}
_DTYPES = {"images": "uint8", "depths": "float32", "labels": "uint16"}
# A compressed chunk may span several frames. The cache avoids decompressing it again for each frame.
_CHUNK_CACHE_BYTES = 64 * 2**20


class Release:
    """Reads the release frame by frame.

    Args:
        raw_dir: contains the files; None if not given.
        num_classes: 13 or 40.
        image_size: height and width of the arrays in an example.
    """

    def __init__(self, raw_dir: Path | None, num_classes: int, image_size: tuple[int, int]):
        self._raw_dir = raw_dir
        self._class_map = classes.class_map(num_classes)
        self._image_size = image_size

    def raw_files(self) -> Iterator[str]:
        """Yields the paths of the release's files that exist."""
        paths = [] if self._raw_dir is None else [self._raw_dir / MAT, self._raw_dir / SPLITS_MAT]
        return (str(path) for path in paths if path.is_file())

    def check(self) -> None:
        """Checks the files of the release.

        Raises:
            RawDataError: the .mat file is missing; splits.mat is missing, and the .mat file does not hold 1449 frames;
                or a file is damaged, or has arrays of another name, type or shape.
        """
        if not self._mat.is_file():
            if AUTHORS.lies_in(self._mat.parent):
                raise RELEASE.wrong_layout(self._mat.parent, AUTHORS)
            raise RELEASE.missing(self._raw_dir, f"There is no {MAT}.")
        self._split()

    def split_sizes(self) -> dict[str, int]:
        return {split: len(numbers) for split, numbers in self._split().items()}

    def example(self, split: str, index: int) -> dict[str, object]:
        """Returns an example of a split, in the order of frame numbers, with an id like "nyuv2/0001".

        Raises:
            RawDataError: if the frame is damaged or has values out of range.
        """
        number = self._numbers[split][index]
        name = f"{self._mat} frame {number}"
        try:
            frame = {key: self._file[key][number - 1].T for key in _SHAPES}
        except OSError as error:
            raise RawDataError(f"{name}: damaged ({error}). Download the file again.") from error
        return {"id": f"nyuv2/{number:04d}", **self._example(frame, name)}

    def close(self) -> None:
        """Closes the file that `example` leaves open."""
        if "_file" in self.__dict__:
            self._file.close()
            del self._file

    def _example(self, frame: dict[str, np.ndarray], name: str) -> dict[str, object]:
        depth = frame["depths"].astype(np.float32)
        check_depth(depth, name)
        check_labels(frame["labels"], 0, classes.NUM_LABELS, name)
        return {
            "image": resize_bilinear(np.ascontiguousarray(frame["images"]), self._image_size),
            "semantic": self._class_map[resize_nearest(frame["labels"], self._image_size)],
            "depth": resize_nearest(depth, self._image_size)[..., None],
            # Computed at full size, where neighbouring pixels are close in space.
            "normal": normals_from_depth(depth, NYUV2_CAMERA, nearest_pixels(depth.shape, self._image_size)),
            "labelled": {"semantic": True, "depth": True, "normal": True},
        }

    @property
    def _mat(self) -> Path:
        if self._raw_dir is None or not self._raw_dir.is_dir():
            raise RELEASE.missing(self._raw_dir)
        return self._raw_dir / MAT

    @functools.cached_property
    def _file(self) -> "h5py.File":
        return self._open()

    @functools.cached_property
    def _numbers(self) -> dict[str, Int[np.ndarray, "frames"]]:
        return self._split()

    def _open(self) -> "h5py.File":
        import h5py

        try:
            # The file is only read, and some network file systems do not support locks.
            return h5py.File(self._mat, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES, locking=False)
        except PermissionError as error:
            raise RawDataError(f"{self._mat}: cannot be opened ({error.strerror or error}).") from error
        except OSError as error:
            raise RawDataError(f"{self._mat}: truncated or damaged HDF5 file ({error}). Download it again.") from error

    def _num_frames(self) -> int:
        import h5py

        with self._open() as mat:
            for key, shape in _SHAPES.items():
                found = mat.get(key)
                is_array = isinstance(found, h5py.Dataset)
                if not is_array or found.shape[1:] != shape or found.dtype != _DTYPES[key]:
                    got = f"{found.dtype} {list(found.shape)}" if is_array else "no such array"
                    raise RawDataError(
                        f"{self._mat}: expected {key!r} as {_DTYPES[key]} [frames, {', '.join(map(str, shape))}], "
                        f"got {got}."
                    )
            counts = {key: len(mat[key]) for key in _SHAPES}
        if len(set(counts.values())) != 1:
            raise RawDataError(f"{self._mat}: the arrays have different numbers of frames: {counts}.")
        return counts["images"]

    def _split(self) -> dict[str, Int[np.ndarray, "frames"]]:
        """Returns the 1-based frame numbers of each split, in ascending order."""
        num_frames = self._num_frames()
        path = self._mat.parent / SPLITS_MAT
        if not path.is_file():
            if num_frames != classes.NUM_FRAMES:
                raise RawDataError(
                    f"{self._mat} holds {num_frames} frames, but the official split is for {classes.NUM_FRAMES}. Add "
                    f"a {SPLITS_MAT} beside it with trainNdxs and testNdxs, counted from 1."
                )
            return classes.official_split()
        import scipy.io

        try:
            content = scipy.io.loadmat(path, variable_names=["trainNdxs", "testNdxs"])
            split = {"train": content["trainNdxs"], "val": content["testNdxs"]}
        except Exception as error:  # loadmat raises many kinds of errors for damaged files
            raise RawDataError(f"{path}: cannot read trainNdxs and testNdxs ({error!r}).") from error
        split = {name: np.sort(numbers.ravel().astype(np.int64)) for name, numbers in split.items()}
        together = np.concatenate(list(split.values()))
        if len(np.unique(together)) != len(together) or not all(map(len, split.values())):
            raise RawDataError(f"{path}: trainNdxs and testNdxs must be non-empty and contain each frame at most once.")
        if together.min() < 1 or together.max() > num_frames:
            raise RawDataError(
                f"{path}: got frame numbers from {together.min()} to {together.max()}, but {self._mat} holds frames 1 "
                f"to {num_frames}."
            )
        return split
