"""The Visual Decathlon builders: one per dataset, and one for several datasets together."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from mtan_jax.data.checks import check_choice, check_image_size
from mtan_jax.data.decathlon.folders import FolderSet
from mtan_jax.data.decathlon.layouts import LAYOUTS, detect_layout
from mtan_jax.data.decathlon.official import OfficialSet
from mtan_jax.data.decathlon.sets import NUM_CLASSES, UNFLIPPED, statistics
from mtan_jax.data.decathlon.tfds_copy import TfdsSet
from mtan_jax.data.image_sets import Colour, ImageSetBuilder, ImageSets
from mtan_jax.data.raw.manual_downloads import data_root

Layout = Literal["official", "folders", "tfds", "auto"]


class DecathlonSet(ImageSetBuilder):
    """One dataset of Visual Decathlon (Rebuffi, Bilen and Vedaldi, NIPS 2017), or your own dataset in class folders.

    Images keep the encoding of the raw data; those of the release have a shorter side of 72 pixels. The splits are
    "train", "val" and, if the raw data have it, "test". Labels follow the names of the class folders, or TFDS in TFDS'
    copy. The label of a test image is -1 if unknown.

    Example ids are like "dtd/train/0001/000001.jpg". For test images of the official layout they are "dtd/test/"
    followed by the image's id in the challenge. The mean and standard deviation of the channels are the published ones
    for the ten datasets, in every layout, and computed from "train" for other datasets.

    Args:
        set_name: name of the dataset. Only the layout "folders" allows others than the ten.
        data_dir: where prepared datasets are stored; None is the TFDS default.
        raw_dir: where the raw data are; None is `<data_dir>/downloads/manual/decathlon`. Not needed once the dataset is
            prepared, or if TFDS' copy is in `data_dir`.
        layout: layout of the raw data. "auto" is the one found in `raw_dir`, else the one already prepared; it is
            "folders" for datasets other than the ten.
        flip: whether a flipped image keeps its class; always False for gtsrb, omniglot and svhn.

    Raises:
        ValueError: on construction, if the layout or the dataset is unknown, or "auto" finds several layouts.
        RawDataError: from `prepare`, if raw data are missing or damaged.
    """

    name = "decathlon"
    VERSION = "1.0.0"

    def __init__(
        self,
        *,
        set_name: str,
        data_dir: str | None = None,
        raw_dir: str | None = None,
        layout: Layout = "auto",
        flip: bool = True,
    ):
        check_choice("layout", layout, (*LAYOUTS, "auto"))
        folder = self.find_raw(data_dir, raw_dir)
        prepared = data_root(data_dir)
        # The layout is part of the name of the prepared dataset, so it must be known here.
        self._layout = self._detect(set_name, folder, prepared) if layout == "auto" else layout
        if self._layout != "folders":
            check_choice("datasets", set_name, tuple(NUM_CLASSES))
        elif set_name in ("", ".", "..") or Path(set_name).name != set_name:
            raise ValueError(f"datasets: got {set_name!r}; expected the name of a folder in --config.data.raw_dir.")
        self.flip = flip and set_name not in UNFLIPPED
        self.raw_layout = dataclasses.replace(
            LAYOUTS[self._layout], dataset=f"Visual Decathlon: the dataset {set_name!r}"
        )
        self._raw: FolderSet | TfdsSet
        if self._layout == "official":
            self._raw = OfficialSet(folder, set_name)
        elif self._layout == "folders":
            self._raw = FolderSet(folder, set_name)
        else:
            copy = TfdsSet([prepared] if folder is None else [folder, prepared], set_name)
            root = copy.root()
            self._raw, raw_dir = copy, raw_dir if root is None else str(root)  # the base of the raw files' paths
        super().__init__(set_name=set_name, data_dir=data_dir, raw_dir=raw_dir, variant=f"{set_name}-{self._layout}")

    @classmethod
    def _detect(cls, set_name: str, raw_dir: Path | None, data_dir: Path) -> str:
        if set_name not in NUM_CLASSES:
            return "folders"
        folders = {layout: data_dir / cls.name / f"{set_name}-{layout}" / str(cls.VERSION) for layout in LAYOUTS}
        prepared = [layout for layout, folder in folders.items() if (folder / "dataset_info.json").is_file()]
        return detect_layout(set_name, raw_dir, data_dir, prepared)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The challenge's category id of each class, in label order.

        Raises:
            ValueError: if the dataset is not prepared, or prepared from a layout without these ids.
        """
        ids = dict(self.info.metadata.items()).get("category_ids") if self.is_prepared() else None
        if ids is None:
            raise ValueError(
                f"{self.set_name} has no category ids in {self.data_dir}, because they are part of the official "
                "annotations. Prepare it with --config.data.options.layout=official."
            )
        return tuple(ids)

    def class_names(self) -> tuple[str, ...]:
        if self.raw_dir is None:
            if self._layout != "official":
                raise self.no_raw_release()
            return tuple(map(str, range(NUM_CLASSES[self.set_name])))  # known without data
        return self._raw.class_names()

    def known_statistics(self) -> tuple[Colour, Colour] | None:
        return statistics().get(self.set_name)

    def extra_metadata(self) -> dict[str, object]:
        return self._raw.metadata()

    def check_raw(self) -> None:
        self._raw.check()

    def raw_files(self) -> Iterator[str]:
        return self._raw.raw_files()

    def split_sizes(self) -> dict[str, int]:
        return self._raw.split_sizes()

    def example(self, split: str, index: int) -> dict[str, object]:
        return self._raw.example(split, index)


class Decathlon(ImageSets):
    """The ten datasets of Visual Decathlon, a subset of them, or your own datasets, with one task per dataset.

    Args:
        data_dir: where prepared datasets are stored; None is the TFDS default.
        raw_dir: where the raw data are; see `DecathlonSet`.
        datasets: names of the datasets, in task order; None is the ten.
        image_size: height and width in pixels of the images in a batch; images are stored in their original size.
        layout: layout of the raw data: "official" (the release with its annotations), "folders"
            (SET/{train,val}/CLASS/*.jpg), "tfds" (prepared with TFDS' `visual_domain_decathlon`), or "auto"; see
            `DecathlonSet`.
        unflipped: datasets, besides gtsrb, omniglot and svhn, whose images must not be flipped, such as letters.

    Raises:
        ValueError: if an argument has an unknown or invalid value.
    """

    name = "decathlon"
    known_sets = tuple(NUM_CLASSES)

    def __init__(
        self,
        *,
        data_dir: str | None = None,
        raw_dir: str | None = None,
        datasets: Sequence[str] | None = None,
        image_size: tuple[int, int] = (72, 72),
        layout: Layout = "auto",
        unflipped: Sequence[str] = (),
    ):
        names = list(NUM_CLASSES) if datasets is None else datasets
        if isinstance(names, str) or not names or len(set(names)) != len(names):
            raise ValueError(f"datasets: got {datasets!r}; expected distinct dataset names, such as ('dtd', 'svhn').")
        unknown = [name for name in unflipped if name not in names]
        if unknown:
            raise ValueError(f"unflipped: got {unknown[0]!r}; expected only names among {', '.join(names)}.")
        builders = [
            DecathlonSet(set_name=name, data_dir=data_dir, raw_dir=raw_dir, layout=layout, flip=name not in unflipped)
            for name in names
        ]
        super().__init__(builders, check_image_size(image_size))
