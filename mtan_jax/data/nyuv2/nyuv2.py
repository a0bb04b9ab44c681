"""The NYUv2 dataset builder."""

from collections.abc import Iterable
from typing import Literal, cast

import numpy as np

from mtan_jax.data.builder import DataInfo, DenseBuilder
from mtan_jax.data.checks import check_choice, check_image_size
from mtan_jax.data.nyuv2 import classes
from mtan_jax.data.nyuv2.layouts import AUTHORS, RELEASE
from mtan_jax.data.nyuv2.release import Release
from mtan_jax.data.raw.npy_layout import NpyLayout
from mtan_jax.data.raw.raw_layout import choose_layout

Layout = Literal["auto", "release", "authors"]


class NYUv2(DenseBuilder):
    """NYU Depth v2 (Silberman et al., ECCV 2012): 1449 labelled indoor frames, official split of 795 train and 654 val.

    The layout "release" is `nyu_depth_v2_labeled.mat` as downloaded. Images are resized bilinearly, labels, depth and
    normals to the nearest pixel. The release has no normals, so they are computed from the depth (`normals.py`). The
    layout "authors" is the MTAN authors' preprocessed dataset at 288x384, with its own normals. Its arrays are kept bit
    for bit if they have the size `image_size`, and resized the same way otherwise (`npy_layout.py`).

    Depth is in metres, 0 where undefined. Normals are unit vectors that point towards the camera, in the axes x right,
    y forward (into the scene) and z up; 0 where undefined. A wall seen head-on has the normal (0, -1, 0), the floor
    (0, 0, 1).

    Example ids are "nyuv2/0001" with the frame's 1-based number in the release, or "nyuv2/train/0" with the authors'
    file number.

    Args:
        data_dir: where prepared datasets are stored; None is the TFDS default.
        raw_dir: where the raw data are; None is `<data_dir>/downloads/manual/nyuv2`. Not needed once the dataset is
            prepared.
        layout: layout of the raw data; "auto" is the one found in `raw_dir`, else the one already prepared.
        num_classes: 13 or 40; the authors' layout has 13.
        image_size: height and width in pixels.

    Raises:
        ValueError: if an argument has an unknown value, or the layout cannot provide it.
    """

    name = "nyuv2"
    VERSION = "1.1.0"

    def __init__(
        self,
        *,
        data_dir: str | None = None,
        raw_dir: str | None = None,
        layout: Layout = "auto",
        num_classes: int = 13,
        image_size: tuple[int, int] = (288, 384),
    ):
        check_choice("layout", layout, ("auto", "release", "authors"))
        check_choice("num_classes", num_classes, (13, 40))
        self._num_classes = num_classes
        self._image_size = height, width = check_image_size(image_size)

        def is_prepared(name: str) -> bool:
            return (name == "release" or num_classes == 13) and NYUv2(
                data_dir=data_dir, layout=cast(Layout, name), num_classes=num_classes, image_size=image_size
            ).is_prepared()

        folder = self.find_raw(data_dir, raw_dir)
        found = choose_layout((RELEASE, AUTHORS), folder, is_prepared) if layout == "auto" else layout
        if found == "authors" and num_classes != 13:
            raise ValueError(f"num_classes: got {num_classes!r}; the layout 'authors' only holds 13 classes.")
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
            self.image_dtype = np.float32  # the authors' images are floats and are kept exactly
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

    def example(self, split: str, index: int) -> dict[str, object]:
        return self._raw.example(split, index)

    def close_raw(self) -> None:
        self._raw.close()
