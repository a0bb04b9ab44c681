"""Sets of Visual Decathlon as released: pictures in folders, and COCO annotations with the ids of the challenge."""

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

from mtan_jax.data.builder import RawDataError
from mtan_jax.data.decathlon.folders import FolderSet, Listing, Picture
from mtan_jax.data.decathlon.layouts import ANNOTATION_FOLDERS, DATA_FOLDERS, OFFICIAL
from mtan_jax.data.decathlon.sets import NUM_CLASSES
from mtan_jax.data.raw_layout import RawLayout


class OfficialSet(FolderSet):
    """Reads one of the ten sets; its metadata are the "category_ids" of the classes, in the order of the labels.

    The identity of a test image ends with the id that it has in the challenge: "dtd/test/10000001".

    Args:
        raw_dir: holds the folders of the release; None where not given.
        set_name: one of the ten.
    """

    layout: ClassVar[RawLayout] = OFFICIAL
    data_folders: ClassVar[tuple[str, ...]] = DATA_FOLDERS

    def raw_files(self) -> dict[str, int]:
        """Names and sizes of all pictures and annotations."""
        if self._raw_dir is None:
            return {}
        paths = [path for name in self._annotation_names().values() if (path := self._find_annotations(name))]
        return super().raw_files() | {path.relative_to(self._raw_dir).as_posix(): path.stat().st_size for path in paths}

    def _list(self) -> Listing:
        listing = super()._list()
        found, known = len(listing.classes), NUM_CLASSES[self._set_name]
        if found != known:
            raise RawDataError(
                f"{listing.folder / 'train'}: {found} classes; the official {self._set_name} has {known}. Get the set "
                "anew, or name a part of it, or a set of one's own, with --config.data.options.layout=folders."
            )
        names = self._annotation_names()
        annotations = {split: _read(self._annotations_path(names[split]), split) for split in listing.pictures}
        category_ids: dict[int, int] = {}
        for split, pictures in listing.pictures.items():
            annotations[split].check(pictures, listing.folder)
            if split != "test":
                annotations[split].add_category_ids(pictures, category_ids)
        ordered = [category_ids[label] for label in range(found)]
        if len(set(ordered)) != found:
            raise RawDataError(
                f"{annotations['train'].path}: {found} classes have only {len(set(ordered))} category ids. Get the "
                "annotations and the pictures of one release."
            )
        identified = dict(listing.pictures)
        if "test" in identified:
            ids = annotations["test"].image_ids
            identified["test"] = [
                picture._replace(identity=f"{self._set_name}/test/{ids[picture.file]}")
                for picture in identified["test"]
            ]
        return dataclasses.replace(listing, pictures=identified, metadata={"category_ids": ordered})

    def _annotation_names(self) -> dict[str, str]:
        kinds = {"train": "train", "val": "val", "test": "test_stripped"}
        return {split: f"{self._set_name}_{kind}.json" for split, kind in kinds.items()}

    def _find_annotations(self, name: str) -> Path | None:
        if self._raw_dir is None:
            return None
        return next(filter(Path.is_file, (self._raw_dir / folder / name for folder in ANNOTATION_FOLDERS)), None)

    def _annotations_path(self, name: str) -> Path:
        path = self._find_annotations(name)
        if path is None:
            places = " nor ".join(f"{folder}/{name}" for folder in ANNOTATION_FOLDERS)
            raise self._layout.missing(self._raw_dir, f"There is neither {places}.")
        return path


@dataclasses.dataclass(frozen=True, eq=False)
class _Annotations:
    """The annotations of a split.

    Attributes:
        path: of the file.
        image_ids: by the picture's place below the folder of the set, such as "val/0001/000001.jpg".
        categories: the category id of an image id; empty for test images.
    """

    path: Path
    image_ids: dict[str, int]
    categories: dict[int, int]

    def check(self, pictures: list[Picture], folder: Path) -> None:
        """Raises RawDataError unless the file names the very pictures that are there."""
        there = {picture.file for picture in pictures}
        if unknown := sorted(self.image_ids.keys() - there):
            raise RawDataError(
                f"{self.path}: names {unknown[0]} (and {len(unknown) - 1} more), which {folder} does not hold. Extract "
                "the set anew; a part of it can be read with --config.data.options.layout=folders."
            )
        if unnamed := sorted(there - self.image_ids.keys()):
            raise RawDataError(
                f"{self.path}: does not name {folder / unnamed[0]} (and {len(unnamed) - 1} more). Remove what is not "
                "of the release, or get the annotations anew."
            )

    def add_category_ids(self, pictures: list[Picture], category_ids: dict[int, int]) -> None:
        """Adds the category id of each label, as the labels' pictures have it."""
        for picture in pictures:
            category = self.categories.get(self.image_ids[picture.file])
            if category is None:
                raise RawDataError(f"{self.path}: no annotation of {picture.file}. Get the annotations anew.")
            if category_ids.setdefault(picture.label, category) != category:
                raise RawDataError(
                    f"{self.path}: {picture.file} is of the category {category}, others of its folder are of "
                    f"{category_ids[picture.label]}. Get the annotations and the pictures of one release."
                )


def _read(path: Path, split: str) -> _Annotations:
    # The release's names begin with "data/SET/"; the end of them is what lies below the folder of the set.
    parts = 2 if split == "test" else 3
    try:
        content = json.loads(path.read_text())
        files = {image["id"]: "/".join(image["file_name"].split("/")[-parts:]) for image in content["images"]}
        annotations = [] if split == "test" else content["annotations"]
        categories = {entry["image_id"]: entry["category_id"] for entry in annotations}
        known = {category["id"] for category in (content["categories"] if annotations else ())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RawDataError(f"{path}: COCO annotations could not be read ({error!r}). Get the file anew.") from error
    if lacking := sorted(categories.keys() - files.keys()):
        raise RawDataError(
            f"{path}: an annotation names the image {lacking[0]}, which is not among its images. Get the file anew."
        )
    if lacking := sorted(set(categories.values()) - known):
        raise RawDataError(
            f"{path}: an annotation names the category {lacking[0]}, which is not among its categories. Get the file "
            "anew."
        )
    return _Annotations(path, {file: identity for identity, file in files.items()}, categories)
