"""Reads the official release of Cityscapes: leftImg8bit, gtFine, disparity and camera, each a folder or a zip."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int8, UInt16

from mtan_jax.data.checks import check_labels
from mtan_jax.data.cityscapes.layouts import AUTHORS, RELEASE
from mtan_jax.data.cityscapes.package import Package
from mtan_jax.data.errors import RawDataError
from mtan_jax.data.raw.image_files import read_integers, read_rgb
from mtan_jax.data.raw.resize import resize_bilinear, resize_nearest

_SUFFIXES = {
    "leftImg8bit": "_leftImg8bit.png",
    "gtFine": "_gtFine_labelIds.png",
    "disparity": "_disparity.png",
    "camera": "_camera.json",
}


class Release:
    """Reads the release image by image.

    Args:
        raw_dir: contains the folders or zips; None if not given.
        class_map: the class of each label id, starting at id 0.
        image_size: height and width of the arrays in an example.
        depth: "disparity" or "inverse_depth"; only the latter needs the camera files.
    """

    def __init__(
        self, raw_dir: Path | None, class_map: Int8[np.ndarray, "ids"], image_size: tuple[int, int], depth: str
    ):
        self._raw_dir = raw_dir
        self._class_map = class_map
        self._image_size = image_size
        self._depth = depth

    def raw_files(self) -> Iterator[str]:
        """Yields the paths of the files in folders and of the zips."""
        if self._raw_dir is not None:
            for package in self._packages.values():
                yield from package.raw_files()

    def check(self) -> None:
        """Checks that the packages hold the same images.

        Raises:
            RawDataError: if a package or a split is missing, or an image lacks a file in one of the packages.
        """
        if self._raw_dir is None or not self._raw_dir.is_dir():
            raise RELEASE.missing(self._raw_dir)
        if AUTHORS.lies_in(self._raw_dir) and not RELEASE.lies_in(self._raw_dir):
            raise RELEASE.wrong_layout(self._raw_dir, AUTHORS)
        frames = self._frames
        all_frames = set().union(*frames.values())
        for split in ("train", "val"):
            if not any(frame.split == split for frame in all_frames):
                raise RELEASE.missing(self._raw_dir, f"There are no files of the split {split!r}.")
        for package, found in frames.items():
            if lacking := sorted(all_frames - found, key=_Frame.sort_key):
                raise RELEASE.missing(
                    self._raw_dir,
                    f"{lacking[0].file(package)} is missing: {package} has {len(found)} files, but all packages "
                    f"together have {len(all_frames)} images.",
                )

    def split_sizes(self) -> dict[str, int]:
        return {split: len(frames) for split, frames in self._images.items()}

    def example(self, split: str, index: int) -> dict[str, object]:
        """Returns an example of a split, in the order of file names, with an id like "cityscapes/aachen_000000_000019".

        Raises:
            RawDataError: if a file is unreadable, damaged or inconsistent with the image.
        """
        return self._example(self._images[split][index])

    def close(self) -> None:
        """Closes the zips that `example` leaves open."""
        for package in self._packages.values():
            package.close()

    def _example(self, frame: "_Frame") -> dict[str, object]:
        files = {
            package: (self._packages[package].read(frame.file(package)), self._location(frame, package))
            for package in ("leftImg8bit", "gtFine", "disparity")
        }
        image = read_rgb(*files["leftImg8bit"])
        labels = read_integers(*files["gtFine"], "uint8")
        disparity = read_integers(*files["disparity"], "uint16")
        for package, array in {"gtFine": labels, "disparity": disparity}.items():
            if array.shape != image.shape[:2]:
                raise RawDataError(
                    f"{self._location(frame, package)}: {_size(array)} pixels, but the image has {_size(image)}."
                )
        check_labels(labels, 0, len(self._class_map) - 1, self._location(frame, "gtFine"))
        disparity = resize_nearest(disparity, self._image_size)
        if self._depth == "disparity":
            depth = disparity.astype(np.float32) / np.float32(65535)
        else:
            camera = self._packages["camera"].read(frame.file("camera"))
            depth = _inverse_depth(disparity, *_baseline_and_fx(camera, self._location(frame, "camera")))
        return {
            "id": f"cityscapes/{frame.stem}",
            "image": resize_bilinear(image, self._image_size),
            "semantic": self._class_map[resize_nearest(labels, self._image_size)],
            "depth": depth[..., None],
            "labelled": {"semantic": True, "depth": True},
        }

    def _location(self, frame: "_Frame", package: str) -> str:
        return self._packages[package].location(frame.file(package))

    @functools.cached_property
    def _packages(self) -> dict[str, Package]:
        if self._raw_dir is None:
            raise RELEASE.missing(None)
        needed = [name for name in _SUFFIXES if name != "camera" or self._depth == "inverse_depth"]
        return {name: Package(self._raw_dir, name, _SUFFIXES[name]) for name in needed}

    @property
    def _frames(self) -> dict[str, set["_Frame"]]:
        """The frames that each package has files for."""
        return {
            name: {_Frame.from_file(file, name) for file in package.files()} for name, package in self._packages.items()
        }

    @functools.cached_property
    def _images(self) -> dict[str, list["_Frame"]]:
        """The frames of each split, sorted by name."""
        package = "leftImg8bit"
        files = self._packages[package].files()
        frames = sorted((_Frame.from_file(file, package) for file in files), key=_Frame.sort_key)
        return {split: [frame for frame in frames if frame.split == split] for split in ("train", "val")}


@dataclasses.dataclass(frozen=True)
class _Frame:
    """An image of the release; its `stem` is like "aachen_000000_000019"."""

    split: str
    city: str
    stem: str

    @classmethod
    def from_file(cls, file: str, package: str) -> "_Frame":
        _, split, city, name = file.split("/")
        return cls(split, city, name.removesuffix(_SUFFIXES[package]))

    def file(self, package: str) -> str:
        return f"{package}/{self.split}/{self.city}/{self.stem}{_SUFFIXES[package]}"

    def sort_key(self) -> tuple[str, str, str]:
        return self.split, self.city, self.stem


def _inverse_depth(p: UInt16[np.ndarray, "h w"], baseline: float, fx: float) -> Float32[np.ndarray, "h w"]:
    return (np.maximum(p.astype(np.float64) - 1, 0) / 256 / (baseline * fx)).astype(np.float32)


def _baseline_and_fx(camera: bytes, name: str) -> tuple[float, float]:
    """Reads the baseline in metres and the focal length in pixels at full size."""
    try:
        content = json.loads(camera)
        baseline, fx = float(content["extrinsic"]["baseline"]), float(content["intrinsic"]["fx"])
    except (ValueError, KeyError, TypeError) as error:
        raise RawDataError(f"{name}: cannot read extrinsic.baseline and intrinsic.fx ({error!r}).") from error
    if not (0 < baseline < np.inf and 0 < fx < np.inf):
        raise RawDataError(f"{name}: got baseline {baseline} m and fx {fx} pixels; both must be positive and finite.")
    return baseline, fx


def _size(array: np.ndarray) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"
