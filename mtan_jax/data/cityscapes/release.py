"""The official release of Cityscapes: leftImg8bit, gtFine, disparity and camera, each a folder or a zip."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int8, UInt16

from mtan_jax.data.checks import check_labels
from mtan_jax.data.cityscapes.layouts import AUTHORS, RELEASE
from mtan_jax.data.cityscapes.part import Part
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
        raw_dir: holds the folders or zips; None where not given.
        class_map: the class of each label id from 0 on.
        image_size: height and width of the arrays that `examples` yields.
        depth: "disparity" or "inverse_depth"; the former needs no camera files.
    """

    def __init__(
        self, raw_dir: Path | None, class_map: Int8[np.ndarray, "ids"], image_size: tuple[int, int], depth: str
    ):
        self._raw_dir = raw_dir
        self._class_map = class_map
        self._image_size = image_size
        self._depth = depth

    def raw_files(self) -> Iterator[str]:
        """The files that are read: those in folders, and zips."""
        if self._raw_dir is not None:
            for part in self._parts.values():
                yield from part.raw_files()

    def check(self) -> None:
        """Raises RawDataError unless every image has its partners, and every partner its image."""
        if self._raw_dir is None or not self._raw_dir.is_dir():
            raise RELEASE.missing(self._raw_dir)
        if AUTHORS.lies_in(self._raw_dir) and not RELEASE.lies_in(self._raw_dir):
            raise RELEASE.wrong_layout(self._raw_dir, AUTHORS)
        frames = self._frames
        everything = set().union(*frames.values())
        for split in ("train", "val"):
            if not any(frame.split == split for frame in everything):
                raise RELEASE.missing(self._raw_dir, f"There are no files of the split {split!r}.")
        for part, found in frames.items():
            if lacking := sorted(everything - found, key=_Frame.sort_key):
                raise RELEASE.missing(
                    self._raw_dir,
                    f"{lacking[0].file(part)} is missing: {part} has {len(found)} files, the parts together have "
                    f"{len(everything)} images.",
                )

    def split_sizes(self) -> dict[str, int]:
        return {split: len(frames) for split, frames in self._images.items()}

    def example(self, split: str, index: int) -> dict[str, Any]:
        """The examples of a split go by name; `id` is such as "cityscapes/aachen_000000_000019"."""
        return self._example(self._images[split][index])

    def close(self) -> None:
        """Closes the zips that `example` leaves open."""
        for part in self._parts.values():
            part.close()

    def _example(self, frame: "_Frame") -> dict[str, Any]:
        files = {
            part: (self._parts[part].read(frame.file(part)), self._where(frame, part))
            for part in ("leftImg8bit", "gtFine", "disparity")
        }
        image = read_rgb(*files["leftImg8bit"])
        labels = read_integers(*files["gtFine"], "uint8")
        disparity = read_integers(*files["disparity"], "uint16")
        for part, array in {"gtFine": labels, "disparity": disparity}.items():
            if array.shape != image.shape[:2]:
                raise RawDataError(
                    f"{self._where(frame, part)}: {_size(array)} pixels, but the image has {_size(image)}."
                )
        check_labels(labels, 0, len(self._class_map) - 1, self._where(frame, "gtFine"))
        disparity = resize_nearest(disparity, self._image_size)
        if self._depth == "disparity":
            depth = disparity.astype(np.float32) / np.float32(65535)
        else:
            camera = self._parts["camera"].read(frame.file("camera"))
            depth = _inverse_depth(disparity, *_baseline_and_fx(camera, self._where(frame, "camera")))
        return {
            "id": f"cityscapes/{frame.stem}",
            "image": resize_bilinear(image, self._image_size),
            "semantic": self._class_map[resize_nearest(labels, self._image_size)],
            "depth": depth[..., None],
            "labelled": {"semantic": True, "depth": True},
        }

    def _where(self, frame: "_Frame", part: str) -> str:
        return self._parts[part].where(frame.file(part))

    @functools.cached_property
    def _parts(self) -> dict[str, Part]:
        if self._raw_dir is None:
            raise RELEASE.missing(None)
        needed = [name for name in _SUFFIXES if name != "camera" or self._depth == "inverse_depth"]
        return {name: Part(self._raw_dir, name, _SUFFIXES[name]) for name in needed}

    @property
    def _frames(self) -> dict[str, set["_Frame"]]:
        return {name: {_Frame.of(file, name) for file in part.files()} for name, part in self._parts.items()}

    @functools.cached_property
    def _images(self) -> dict[str, list["_Frame"]]:
        """The frames of each split, in the order of their names."""
        part = "leftImg8bit"
        frames = sorted((_Frame.of(file, part) for file in self._parts[part].files()), key=_Frame.sort_key)
        return {split: [frame for frame in frames if frame.split == split] for split in ("train", "val")}


@dataclasses.dataclass(frozen=True)
class _Frame:
    """An image of the release; `stem` is such as "aachen_000000_000019"."""

    split: str
    city: str
    stem: str

    @classmethod
    def of(cls, file: str, part: str) -> "_Frame":
        _, split, city, name = file.split("/")
        return cls(split, city, name.removesuffix(_SUFFIXES[part]))

    def file(self, part: str) -> str:
        return f"{part}/{self.split}/{self.city}/{self.stem}{_SUFFIXES[part]}"

    def sort_key(self) -> tuple[str, str, str]:
        return self.split, self.city, self.stem


def _inverse_depth(p: UInt16[np.ndarray, "h w"], baseline: float, fx: float) -> Float32[np.ndarray, "h w"]:
    return (np.maximum(p.astype(np.float64) - 1, 0) / 256 / (baseline * fx)).astype(np.float32)


def _baseline_and_fx(camera: bytes, name: str) -> tuple[float, float]:
    """The baseline in metres and the focal length in pixels of full size."""
    try:
        content = json.loads(camera)
        baseline, fx = float(content["extrinsic"]["baseline"]), float(content["intrinsic"]["fx"])
    except (ValueError, KeyError, TypeError) as error:
        raise RawDataError(f"{name}: no extrinsic.baseline and intrinsic.fx could be read ({error!r}).") from error
    if not (0 < baseline < np.inf and 0 < fx < np.inf):
        raise RawDataError(f"{name}: baseline {baseline} m and fx {fx} pixels must be positive.")
    return baseline, fx


def _size(array: np.ndarray) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"
