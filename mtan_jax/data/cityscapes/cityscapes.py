"""The Cityscapes data set as a builder."""

import functools
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import numpy as np

from mtan_jax.data.builder import TARGETS, DataInfo, DenseBuilder, Target
from mtan_jax.data.checks import check_choice, check_image_size
from mtan_jax.data.cityscapes.classes import read_classes
from mtan_jax.data.cityscapes.layouts import AUTHORS, RELEASE
from mtan_jax.data.cityscapes.release import Release
from mtan_jax.data.raw.npy_layout import NpyLayout
from mtan_jax.data.raw.raw_layout import choose_layout


class Cityscapes(DenseBuilder):
    """Cityscapes (Cordts et al., CVPR 2016): streets from a car, 2975 images to train and 500 to validate.

    Layout "release" is the release as downloaded, zips or folders. Images are resized bilinearly, labels and disparity
    to the nearest pixel. Layout "authors" is the preprocessed set of the MTAN authors at 128x256 or 256x512. Arrays of
    the size `image_size` are kept bit for bit; others are resized in the same way (`npy_layout.py`).

    The depth target is larger where things are nearer, and 0 where undefined. With p the value in the disparity
    picture, p = 0 where undefined, the disparity at full size is (p - 1)/256 pixels, and `depth` names the convention:

    - "disparity": p / 65535, as in the authors' set (inferred from its values), hence in the published numbers;
    - "inverse_depth": disparity / (baseline * fx), in 1/m, with the camera of each image. Where p = 1 the disparity is
      0, that is infinitely far; this counts as undefined.

    The 2 classes are background and foreground (human and vehicle). The 7 classes are Cityscapes' categories;
    `category_ids` names which label ids count: "all" of a category, or those "evaluated" by the benchmark (without
    parking, rail track, guard rail, bridge, tunnel, polegroup, caravan and trailer, which are then void). Which the
    authors took is not known.

    An id is "cityscapes/aachen_000000_000019", or "cityscapes/train/12", the authors' file number.

    Args:
        data_dir: where prepared data sets live; None is TFDS' default.
        raw_dir: where the raw data lie; None once the data set is prepared.
        layout: of the raw data; "auto" is the one that `raw_dir` holds, or in which the dataset is prepared.
        num_classes: 2, 7 or 19.
        image_size: height and width in pixels.
        depth: convention of the depth target; "disparity" alone in the authors' layout.
        category_ids: see above; the authors' layout has its own reading.
    """

    name = "cityscapes"
    VERSION = "1.0.0"
    targets: ClassVar[dict[str, Target]] = {name: TARGETS[name] for name in ("semantic", "depth")}

    def __init__(
        self,
        *,
        data_dir: str | None = None,
        raw_dir: str | None = None,
        layout: Literal["auto", "release", "authors"] = "auto",
        num_classes: int = 7,
        image_size: tuple[int, int] = (128, 256),
        depth: Literal["disparity", "inverse_depth"] = "disparity",
        category_ids: Literal["all", "evaluated"] = "all",
    ):
        check_choice("layout", layout, ("auto", "release", "authors"))
        check_choice("num_classes", num_classes, (2, 7, 19))
        check_choice("category_ids", category_ids, ("all", "evaluated"))
        check_choice("depth", depth, ("disparity", "inverse_depth"))
        self._depth = depth
        self._image_size = height, width = check_image_size(image_size)
        self._classes = read_classes(num_classes, category_ids)
        folder = self.find_raw(data_dir, raw_dir)
        found: str = layout
        if layout == "auto":
            options = {"num_classes": num_classes, "image_size": image_size, "depth": depth}
            options |= {"data_dir": data_dir, "category_ids": category_ids}
            found = choose_layout((RELEASE, AUTHORS), folder, functools.partial(_is_prepared, options))
        if found == "authors" and depth != "disparity":
            raise ValueError(f"depth: got {depth!r}; the layout 'authors' holds 'disparity' only (it has no cameras).")
        self.raw_layout = RELEASE if found == "release" else AUTHORS
        self._raw: Release | NpyLayout
        if found == "release":
            self._raw = Release(folder, self._classes.class_map, self._image_size, depth)
        else:
            self._raw = NpyLayout(
                layout=AUTHORS,
                raw_dir=folder,
                folders={"image": "image", "semantic": f"label_{num_classes}", "depth": "depth"},
                num_classes=num_classes,
                image_size=self._image_size,
                other=RELEASE,
            )
            self.image_dtype = np.float32  # the authors' images are floats: kept exactly
        reading = "-evaluated" if (found, num_classes, category_ids) == ("release", 7, "evaluated") else ""
        variant = f"{num_classes}{reading}-{height}x{width}-{depth}-{found}"
        super().__init__(data_dir=data_dir, raw_dir=raw_dir, variant=variant)

    @property
    def data_info(self) -> DataInfo:
        return DataInfo(
            name=self.name,
            image_size=self._image_size,
            classes=self._classes.names,
            palette=self._classes.palette,
            inverse_depth=True,
            depth_unit={"disparity": "disparity/65535", "inverse_depth": "1/m"}[self._depth],
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
    if layout == "authors" and options["depth"] != "disparity":
        return False
    return Cityscapes(layout=layout, **options).is_prepared()
