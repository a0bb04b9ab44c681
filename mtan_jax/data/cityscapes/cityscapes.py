"""The Cityscapes dataset builder."""

from collections.abc import Iterable
from typing import ClassVar, Literal, cast

import numpy as np

from mtan_jax.data.builder import TARGETS, DataInfo, DenseBuilder, Target
from mtan_jax.data.checks import check_choice, check_image_size
from mtan_jax.data.cityscapes.classes import read_classes
from mtan_jax.data.cityscapes.layouts import AUTHORS, RELEASE
from mtan_jax.data.cityscapes.release import Release
from mtan_jax.data.raw.npy_layout import NpyLayout
from mtan_jax.data.raw.raw_layout import choose_layout

Layout = Literal["auto", "release", "authors"]


class Cityscapes(DenseBuilder):
    """Cityscapes (Cordts et al., CVPR 2016): street scenes from a car, 2975 training and 500 validation images.

    The layout "release" is the official release, as zips or extracted. Images are resized bilinearly, labels and
    disparity to the nearest pixel. The layout "authors" is the MTAN authors' preprocessed dataset at 128x256 or
    256x512. Its arrays are kept bit for bit if they have the size `image_size`, and resized the same way otherwise
    (`npy_layout.py`).

    The depth target is larger for nearer surfaces, and 0 where undefined. Let p be the value in the disparity image:
    p = 0 is undefined, otherwise the disparity at full size is (p - 1)/256 pixels. `depth` selects the convention:

    - "disparity": p / 65535, as in the authors' dataset (inferred from its values) and so in the published numbers.
    - "inverse_depth": disparity / (baseline * fx) in 1/m, with each image's own camera. p = 1 is a disparity of 0, a
      point at infinity, and counts as undefined.

    The 2 classes are background and foreground (human and vehicle). The 7 classes are the Cityscapes categories.
    `category_ids` selects the label ids that count: "all" ids of a category, or only those "evaluated" by the
    benchmark. The latter makes parking, rail track, guard rail, bridge, tunnel, polegroup, caravan and trailer void.
    Which of the two the authors used is unknown.

    Example ids are "cityscapes/aachen_000000_000019", or "cityscapes/train/12" with the authors' file number.

    Args:
        data_dir: where prepared datasets are stored; None is the TFDS default.
        raw_dir: where the raw data are; None is `<data_dir>/downloads/manual/cityscapes`. Not needed once the dataset
            is prepared.
        layout: layout of the raw data; "auto" is the one found in `raw_dir`, else the one already prepared.
        num_classes: 2, 7 or 19.
        image_size: height and width in pixels.
        depth: convention of the depth target; the authors' layout only has "disparity".
        category_ids: see above; ignored for the authors' layout.

    Raises:
        ValueError: if an argument has an unknown value, or the layout cannot provide it.
    """

    name = "cityscapes"
    VERSION = "1.0.0"
    targets: ClassVar[dict[str, Target]] = {name: TARGETS[name] for name in ("semantic", "depth")}

    def __init__(
        self,
        *,
        data_dir: str | None = None,
        raw_dir: str | None = None,
        layout: Layout = "auto",
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

        def is_prepared(name: str) -> bool:
            return (name == "release" or depth == "disparity") and Cityscapes(
                data_dir=data_dir,
                layout=cast(Layout, name),
                num_classes=num_classes,
                image_size=image_size,
                depth=depth,
                category_ids=category_ids,
            ).is_prepared()

        folder = self.find_raw(data_dir, raw_dir)
        found = choose_layout((RELEASE, AUTHORS), folder, is_prepared) if layout == "auto" else layout
        if found == "authors" and depth != "disparity":
            raise ValueError(f"depth: got {depth!r}; the layout 'authors' has no cameras and only holds 'disparity'.")
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
            self.image_dtype = np.float32  # the authors' images are floats and are kept exactly
        suffix = "-evaluated" if (found, num_classes, category_ids) == ("release", 7, "evaluated") else ""
        variant = f"{num_classes}{suffix}-{height}x{width}-{depth}-{found}"
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

    def example(self, split: str, index: int) -> dict[str, object]:
        return self._raw.example(split, index)

    def close_raw(self) -> None:
        self._raw.close()
