"""The Visual Decathlon as a data set: a builder a set, and all of them together."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

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
    """One set of Visual Decathlon (Rebuffi, Bilen and Vedaldi, NIPS 2017), or one of one's own in the same folders.

    Images are stored as they are encoded in the raw data; those of the release have a shorter side of 72 pixels. Splits
    are "train", "val" and, where the raw data have it, "test". Labels follow the names of the folders of classes; in
    TFDS' copy they follow TFDS. The label of a test image is -1 where it is not known.

    An id is "dtd/train/0001/000001.jpg"; for test images of the official layout "dtd/test/" and the image's id in the
    challenge. The mean and standard deviation of the channels are the published ones for the ten sets, whatever the
    layout; else they are computed from "train".

    Args:
        set_name: of the set; one of the ten, but for the layout "folders".
        data_dir: where prepared data sets live; None is TFDS' default.
        raw_dir: where the raw data lie; None once the set is prepared, or where TFDS' copy lies in `data_dir`.
        layout: of the raw data. "auto" is the one that is found in `raw_dir`, or that the set is prepared from; sets
            besides the ten have "folders".
        flip: whether a mirrored image keeps its class; never of gtsrb, omniglot and svhn.

    Raises:
        ValueError: on construction, for an unknown layout or set, or where "auto" finds several layouts.
        RawDataError: from `prepare`; see the readers of the layouts.
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
        # The name of the prepared set has the layout, so it must be known from the start.
        self._layout = self._detect(set_name, folder, prepared) if layout == "auto" else layout
        if self._layout != "folders":
            check_choice("datasets", set_name, tuple(NUM_CLASSES))
        elif set_name in ("", ".", "..") or Path(set_name).name != set_name:
            raise ValueError(f"datasets: got {set_name!r}; expected the name of a folder in --config.data.raw_dir.")
        self.flip = flip and set_name not in UNFLIPPED
        self.raw_layout = dataclasses.replace(LAYOUTS[self._layout], dataset=f"Visual Decathlon: the set {set_name!r}")
        self._raw: FolderSet | TfdsSet
        if self._layout == "official":
            self._raw = OfficialSet(folder, set_name)
        elif self._layout == "folders":
            self._raw = FolderSet(folder, set_name)
        else:
            copy = TfdsSet([prepared] if folder is None else [folder, prepared], set_name)
            root = copy.root()
            self._raw, raw_dir = copy, raw_dir if root is None else str(root)  # raw files are named below it
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
        """The challenge's category id of each class, in the order of the labels, once the set is prepared.

        Raises:
            ValueError: the set is not prepared, or from a layout without these ids.
        """
        ids = dict(self.info.metadata.items()).get("category_ids") if self.is_prepared() else None
        if ids is None:
            raise ValueError(
                f"{self.set_name} has no category ids in {self.data_dir}; they come with the annotations of the "
                "challenge: prepare it with --config.data.options.layout=official"
            )
        return tuple(ids)

    def class_names(self) -> tuple[str, ...]:
        if self.raw_dir is None:
            if self._layout != "official":
                raise self.no_raw_release()
            return tuple(map(str, range(NUM_CLASSES[self.set_name])))  # so much is known without data
        return self._raw.class_names()

    def known_statistics(self) -> tuple[Colour, Colour] | None:
        return statistics().get(self.set_name)

    def extra_metadata(self) -> dict[str, Any]:
        return self._raw.metadata()

    def check_raw(self) -> None:
        self._raw.check()

    def raw_files(self) -> Iterator[str]:
        return self._raw.raw_files()

    def split_sizes(self) -> dict[str, int]:
        return self._raw.split_sizes()

    def example(self, split: str, index: int) -> dict[str, Any]:
        return self._raw.example(split, index)


class Decathlon(ImageSets):
    """The ten sets of Visual Decathlon, or some of them, or sets of one's own; each is a task.

    Args:
        data_dir: where prepared data sets live; None is TFDS' default.
        raw_dir: where the raw data lie; see `DecathlonSet`.
        datasets: names of the sets, in the order of the tasks; None is the ten.
        image_size: height and width in pixels that images are brought to; they are stored as they are.
        layout: of the raw data: "official" (the release with its annotations), "folders" (SET/{train,val}/CLASS/*.jpg),
            "tfds" (prepared with TFDS' `visual_domain_decathlon`), or "auto"; see `DecathlonSet`.
        unflipped: sets, besides gtsrb, omniglot and svhn, whose images are not mirrored, such as letters.

    Raises:
        ValueError: an argument is none of those.
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
            raise ValueError(f"datasets: got {datasets!r}; expected different names of sets, such as ('dtd', 'svhn').")
        unknown = [name for name in unflipped if name not in names]
        if unknown:
            raise ValueError(f"unflipped: got {unknown[0]!r}; expected some of the sets {', '.join(names)}.")
        folders: dict[str, Any] = {"data_dir": data_dir, "raw_dir": raw_dir, "layout": layout}
        builders = [DecathlonSet(set_name=name, flip=name not in unflipped, **folders) for name in names]
        super().__init__(builders, check_image_size(image_size))
