"""The NYUv2 data set as a builder."""

import functools
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from mtan_jax.data.builder import DataInfo, DenseBuilder
from mtan_jax.data.checks import check_choice, check_image_size
from mtan_jax.data.nyuv2 import classes
from mtan_jax.data.nyuv2.layouts import AUTHORS, RELEASE
from mtan_jax.data.nyuv2.release import Release
from mtan_jax.data.raw.npy_layout import NpyLayout
from mtan_jax.data.raw.raw_layout import choose_layout


class NYUv2(DenseBuilder):
    """NYU Depth v2 (Silberman et al., ECCV 2012): 1449 labelled frames of rooms, official split 795 train, 654 val.

    Layout "release" is `nyu_depth_v2_labeled.mat` as downloaded. Images are resized bilinearly, labels, depth and
    normals to the nearest pixel. It holds no normals: they are computed from the depth (`normals.py`). Layout "authors"
    is the preprocessed set of the MTAN authors at 288x384, with its own normals. Arrays of the size `image_size` are
    kept bit for bit; others are resized in the same way (`npy_layout.py`).

    Depth is in metres, 0 where undefined. Normals are unit vectors towards the camera in the axes x right, y forward
    (into the scene), z up, so that a wall seen head-on has (0, -1, 0) and the floor (0, 0, 1); 0 where undefined.
    An id is "nyuv2/0001", the frame's 1-based number in the release, or "nyuv2/train/0", the authors' file number.

    Args:
        data_dir: where prepared data sets live; None is TFDS' default.
        raw_dir: where the raw data lie; None once the data set is prepared.
        layout: of the raw data; "auto" is the one that `raw_dir` holds, or in which the dataset is prepared.
        num_classes: 13 or 40; the authors' set has 13.
        image_size: height and width in pixels.
    """

    name = "nyuv2"
    VERSION = "1.1.0"

    def __init__(
        self,
        *,
        data_dir: str | None = None,
        raw_dir: str | None = None,
        layout: Literal["auto", "release", "authors"] = "auto",
        num_classes: int = 13,
        image_size: tuple[int, int] = (288, 384),
    ):
        check_choice("layout", layout, ("auto", "release", "authors"))
        check_choice("num_classes", num_classes, (13, 40))
        self._num_classes = num_classes
        self._image_size = height, width = check_image_size(image_size)
        folder = self.find_raw(data_dir, raw_dir)
        found: str = layout
        if layout == "auto":
            options = {"data_dir": data_dir, "num_classes": num_classes, "image_size": image_size}
            found = choose_layout((RELEASE, AUTHORS), folder, functools.partial(_is_prepared, options))
        if found == "authors" and num_classes != 13:
            raise ValueError(f"num_classes: got {num_classes!r}; the layout 'authors' holds 13 classes only.")
        self.raw_layout = RELEASE if found == "release" else AUTHORS
        self._raw: Release | NpyLayout
        if found == "release":
            self._raw = Release(folder, num_classes, self._image_size)
        else:
            self._raw = NpyLayout(
                layout=AUTHORS,
                raw_dir=folder,
                folders={"image": "image", "semantic": "label", "depth": "depth", "normal": "normal"},
                num_classes=num_classes,
                image_size=self._image_size,
                other=RELEASE,
            )
            self.image_dtype = np.float32  # the authors' images are floats: kept exactly
        super().__init__(data_dir=data_dir, raw_dir=raw_dir, variant=f"{num_classes}-{height}x{width}-{found}")

    @property
    def data_info(self) -> DataInfo:
        return DataInfo(
            name=self.name,
            image_size=self._image_size,
            classes=classes.names(self._num_classes),
            palette=classes.palette(self._num_classes),
            inverse_depth=False,
            depth_unit="m",
        )

    def check_raw(self) -> None:
        self._raw.check()

    def raw_files(self) -> Iterable[str]:
        return self._raw.raw_files()

    def split_sizes(self) -> dict[str, int]:
        return self._raw.split_sizes()

    def example(self, split: str, index: int) -> dict[str, Any]:
        return self._raw.example(split, index)

    def close_raw(self) -> None:
        self._raw.close()


def _is_prepared(options: dict[str, Any], layout: Any) -> bool:
    if layout == "authors" and options["num_classes"] != 13:
        return False
    return NYUv2(layout=layout, **options).is_prepared()
