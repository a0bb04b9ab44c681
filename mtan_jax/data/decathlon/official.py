"""Reads the official release of Visual Decathlon: images in folders, and COCO annotations with the challenge's ids."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int

from mtan_jax.data.decathlon.annotations import Annotations, read_annotations
from mtan_jax.data.decathlon.folders import FolderSet
from mtan_jax.data.decathlon.layouts import ANNOTATION_FOLDERS, DATA_FOLDERS, OFFICIAL
from mtan_jax.data.decathlon.listing import Listing
from mtan_jax.data.decathlon.sets import NUM_CLASSES
from mtan_jax.data.decathlon.skipped_files import SkippedFiles
from mtan_jax.data.errors import RawDataError
from mtan_jax.data.raw.raw_layout import RawLayout

_ANNOTATIONS = {"train": "train", "val": "val", "test": "test_stripped"}


class OfficialSet(FolderSet):
    """Reads one of the ten datasets. Its metadata contain the "category_ids" of the classes, in label order.

    The example id of a test image ends with its id in the challenge: "dtd/test/10000001". Only `check` reads the
    annotations of training and validation images, since examples do not depend on them.

    Args:
        raw_dir: contains the folders of the release; None if not given.
        set_name: one of the ten datasets.
    """

    layout: ClassVar[RawLayout] = OFFICIAL
    data_folders: ClassVar[tuple[str, ...]] = DATA_FOLDERS

    def __init__(self, raw_dir: Path | None, set_name: str):
        super().__init__(raw_dir, set_name)
        self._category_ids: list[int] | None = None
        self._test_ids: Int[np.ndarray, " n"] | None = None

    def check(self) -> None:
        self._category_ids = self._test_ids = None
        super().check()
        listing = self._listing
        for split in listing.splits:
            self._annotations_path(split)  # checks that all exist before reading any
        category_ids = self._train_category_ids(listing)
        for split in [split for split in listing.splits if split != "train"]:
            annotations = self._annotations(split)
            if split == "test":
                self._test_ids = annotations.image_ids
            else:
                self._check_categories(split, annotations.category_ids, category_ids)
        if len(set(category_ids.tolist())) != len(category_ids):
            raise RawDataError(
                f"{self._annotations_path('train')}: {len(category_ids)} classes have only "
                f"{len(set(category_ids.tolist()))} category ids. Use annotations and images of the same release."
            )
        self._category_ids = category_ids.tolist()

    def metadata(self) -> dict[str, object]:
        if self._category_ids is None:
            self.check()
        return {"category_ids": self._category_ids}

    def raw_files(self) -> Iterator[str]:
        """Yields the paths of all images and annotations; none if the dataset is missing."""
        if self._find() is None:
            return
        yield from super().raw_files()
        yield from (str(path) for split in _ANNOTATIONS if (path := self._find_annotations(split)))

    def _example_id(self, split: str, index: int, file: str) -> str:
        if split != "test":
            return super()._example_id(split, index, file)
        if self._test_ids is None:
            self._test_ids = self._annotations("test").image_ids
        return f"{self._set_name}/test/{self._test_ids[index]}"

    def _list(self, skipped: SkippedFiles | None) -> Listing:
        listing = super()._list(skipped)
        found, known = len(listing.classes), NUM_CLASSES[self._set_name]
        if found != known:
            raise RawDataError(
                f"{listing.folder / 'train'}: got {found} classes, but the official {self._set_name} has {known}. "
                "Download the dataset again. For a part of it, or your own dataset, set "
                "--config.data.options.layout=folders."
            )
        return listing

    def _annotations(self, split: str) -> Annotations:
        listing, path = self._listing, self._annotations_path(split)
        return read_annotations(path, listing.folder, listing.splits[split], is_test=split == "test")

    def _train_category_ids(self, listing: Listing) -> Int[np.ndarray, " classes"]:
        """Returns the category id of each label."""
        found = self._annotations("train").category_ids
        _, first = np.unique(listing.splits["train"].labels(), return_index=True)
        self._check_categories("train", found, found[first])
        return found[first]

    def _check_categories(
        self, split: str, found: Int[np.ndarray, " n"], category_ids: Int[np.ndarray, " classes"]
    ) -> None:
        """Raises RawDataError unless each image has the category of its label."""
        files = self._listing.splits[split]
        expected = category_ids[files.labels()]
        wrong = np.flatnonzero(found != expected)
        if wrong.size:
            index = int(wrong[0])
            raise RawDataError(
                f"{self._annotations_path(split)}: {files[index].file} has category {found[index]}, but others in its "
                f"folder have {expected[index]}. Use annotations and images of the same release."
            )

    def _find_annotations(self, split: str) -> Path | None:
        if self._raw_dir is None:
            return None
        name = f"{self._set_name}_{_ANNOTATIONS[split]}.json"
        return next(filter(Path.is_file, (self._raw_dir / folder / name for folder in ANNOTATION_FOLDERS)), None)

    def _annotations_path(self, split: str) -> Path:
        path = self._find_annotations(split)
        if path is None:
            name = f"{self._set_name}_{_ANNOTATIONS[split]}.json"
            expected = " nor ".join(f"{folder}/{name}" for folder in ANNOTATION_FOLDERS)
            raise self._layout.missing(self._raw_dir, f"There is neither {expected}.")
        return path
