"""Reads a dataset of labelled images in class folders: `SET/{train,val,test}/CLASS/*.jpg`."""

import dataclasses
import logging
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from mtan_jax.data.decathlon.layouts import FOLDERS, LAYOUTS
from mtan_jax.data.decathlon.listing import Group, Listing, Split
from mtan_jax.data.decathlon.scan import Scan, check_links, check_names, scan
from mtan_jax.data.decathlon.sets import NUM_CLASSES
from mtan_jax.data.decathlon.skipped_files import SkippedFiles
from mtan_jax.data.errors import RawDataError
from mtan_jax.data.raw.image_files import printable
from mtan_jax.data.raw.raw_layout import RawLayout

SPLITS = ("train", "val", "test")

log = logging.getLogger(__name__)


class FolderSet:
    """Reads a dataset of any name. The classes are the folders in `train`, sorted by name.

    "val" and "test" may lack classes of "train", but not vice versa. Links are followed. Stray files and folders such
    as `.ipynb_checkpoints`, `._1.jpg` or `Thumbs.db` are skipped silently; `check` logs everything else it skips.

    Args:
        raw_dir: contains the datasets' folders; None if not given.
        set_name: name of the dataset.
    """

    layout: ClassVar[RawLayout] = FOLDERS
    data_folders: ClassVar[tuple[str, ...]] = ("",)  # subfolders of `raw_dir` to search, in this order

    def __init__(self, raw_dir: Path | None, set_name: str):
        self._raw_dir = raw_dir
        self._set_name = set_name
        self._listed: Listing | None = None
        dataset = f"{self.layout.dataset}: the dataset {set_name!r}"
        self._layout = dataclasses.replace(self.layout, dataset=dataset)  # for messages

    def check(self) -> None:
        """Lists and checks the folders again, and logs skipped files and suspicious class names.

        A process that only calls `example` does not need this.

        Raises:
            RawDataError: if the dataset, a split or the images of a class are missing, the splits have inconsistent
                classes, or a name or a link is invalid.
        """
        skipped = SkippedFiles()
        self._listed = None
        self._listed = self._list(skipped)
        if message := str(skipped):
            log.warning("%s: skipped %s", self._listed.folder, message)
        self._compare_classes(self._listed)

    def class_names(self) -> tuple[str, ...]:
        return self._listing.classes

    def metadata(self) -> dict[str, object]:
        """Returns further metadata of the prepared dataset."""
        return {}

    def split_sizes(self) -> dict[str, int]:
        return {name: len(split) for name, split in self._listing.splits.items()}

    def example(self, split: str, index: int) -> dict[str, object]:
        """Returns an example of a split; "image" is the path of the file."""
        listing = self._listing
        file, label = listing.splits[split][index]
        return {"id": self._example_id(split, index, file), "image": f"{listing.folder}/{file}", "label": label}

    def raw_files(self) -> Iterator[str]:
        """Yields the current paths of all images in the order of the examples; none if the dataset is missing."""
        folder = self._find()
        for split in SPLITS if folder is not None else ():
            split_folder = f"{folder}/{split}"
            if not os.path.isdir(split_folder):
                continue
            found = scan(split_folder)
            for name in found.folders:
                yield from (f"{split_folder}/{name}/{file}" for file in scan(f"{split_folder}/{name}").images)
            if split == "test":
                yield from (f"{split_folder}/{file}" for file in found.images)

    def _example_id(self, split: str, index: int, file: str) -> str:
        """Returns an example id that is unique across datasets, such as "dtd/train/banded/banded_0002.jpg"."""
        del split, index
        return f"{self._set_name}/{file}"

    @property
    def _listing(self) -> Listing:
        if self._listed is None:
            self._listed = self._list(None)
        return self._listed

    def _list(self, skipped: SkippedFiles | None) -> Listing:
        """Lists the dataset. With `skipped`, also checks names and links, and counts skipped files in it."""
        folder = self._folder()
        classes = tuple(scan(folder / "train").folders)
        if not classes:
            raise self._layout.missing(self._raw_dir, f"{folder / 'train'} has no class folders.")
        present = [split for split in SPLITS if (folder / split).is_dir()]
        return Listing(folder, classes, {split: self._list_split(folder, split, classes, skipped) for split in present})

    def _list_split(self, folder: Path, split: str, classes: Sequence[str], skipped: SkippedFiles | None) -> Split:
        labels = {name: label for label, name in enumerate(classes)}
        found, split_folder = scan(folder / split), f"{folder}/{split}"
        if skipped is not None:
            _check(split_folder, found)
            skipped.add_files(split, found.others)
            if split != "test":
                skipped.add_loose_images(split, found.images)
        groups = []
        for name in found.folders:
            if name not in labels:
                raise _unknown_class(folder, split, name, classes)
            inside = scan(f"{split_folder}/{name}")
            if skipped is not None:
                _check(f"{split_folder}/{name}", inside)
                skipped.add_files(f"{split}/{name}", inside.others)
                skipped.add_nested_folders(f"{split}/{name}", inside.folders)
            if not inside.images:
                raise _no_images(f"{split_folder}/{name}", inside)
            groups.append(Group(f"{split}/{name}", labels[name], inside.images))
        if split == "test" and found.images:
            groups.append(Group(split, -1, found.images))
        if not groups:
            raise self._layout.missing(self._raw_dir, f"{folder / split} has no images.")
        return Split(groups)

    def _compare_classes(self, listing: Listing) -> None:
        """Logs suspicious class names.

        Raises:
            RawDataError: if two class names look the same.
        """
        first: dict[str, str] = {}
        pairs = [(first.setdefault(_folded(name), name), name) for name in listing.classes]
        by_case = [(one, other) for one, other in pairs if one != other]
        for one, other in by_case:
            if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
                raise RawDataError(
                    f"{listing.folder}/train: two class folders have names that look like {other!r} but differ in "
                    f"Unicode normalization: {one!a} and {other!a}. Merge them."
                )
        if by_case:
            log.warning(
                "%s: %d class names differ from another one only by case, such as %r and %r; they are separate classes",
                *(listing.folder, len(by_case), *by_case[0]),
            )
        missing = set(range(len(listing.classes))) - {group.label for group in listing.splits["val"].groups}
        if missing:
            log.warning(
                "%s: %d of %d classes have no folder in val, such as %r",
                *(listing.folder, len(missing), len(listing.classes), listing.classes[min(missing)]),
            )

    def _find(self) -> Path | None:
        """Returns the dataset's folder if it exists."""
        if self._raw_dir is None:
            return None
        folders = [self._raw_dir / folder / self._set_name for folder in self.data_folders]
        return next(filter(Path.is_dir, folders), None)

    def _folder(self) -> Path:
        """Returns the dataset's folder and checks that it has "train" and "val"."""
        raw_dir = self._raw_dir
        if raw_dir is None or not raw_dir.is_dir():
            raise self._layout.missing(raw_dir)
        folder = self._find()
        if folder is None:
            for other in LAYOUTS.values() if self._set_name in NUM_CLASSES else ():
                if other.lies_in(raw_dir) and not self.layout.lies_in(raw_dir):
                    raise self._layout.wrong_layout(raw_dir, other)
            searched = [raw_dir / name for name in self.data_folders if (raw_dir / name).is_dir()] or [raw_dir]
            archive = searched[0] / f"{self._set_name}.tar"
            advice = f" Extract {archive}." if archive.is_file() else ""
            raise self._layout.missing(
                raw_dir, f"There is no {self._set_name!r}: {searched[0]} contains {_content(searched[0])}.{advice}"
            )
        for split in ("train", "val"):
            if not (folder / split).is_dir():
                raise self._layout.missing(
                    raw_dir, f"{self._set_name!r} has no split {split!r}: {folder} contains {_content(folder)}."
                )
        return folder


def _check(folder: str, found: Scan) -> None:
    check_names(folder, found.images)
    check_names(folder, found.folders)
    check_links(folder, found)


def _unknown_class(folder: Path, split: str, name: str, classes: Sequence[str]) -> RawDataError:
    path = printable(folder / split / name)
    for other in classes:
        if _folded(other) == _folded(name):
            return RawDataError(
                f"{path}: this class is not in train, where a similar name differs only by case or Unicode "
                f"normalization: {other!a} in train, {name!a} here. Give both the same name."
            )
    return RawDataError(
        f"{path}: this class is not in train; {folder / 'train'} contains {_content(folder / 'train')}. "
        "Add it there or remove it here."
    )


def _no_images(folder: str, found: Scan) -> RawDataError:
    if found.folders:
        inside = f"{folder}/{found.folders[0]}"
        return RawDataError(
            f"{printable(folder)}: contains no images but the folder {printable(inside)}. Move the images into the "
            "class folder itself."
        )
    return RawDataError(
        f"{printable(folder)}: contains no images (it contains {_content(Path(folder))}). Add images or remove the "
        "folder."
    )


def _folded(name: str) -> str:
    """Returns the same text for names that differ only by case or Unicode normalization."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _content(folder: Path) -> str:
    """Lists up to 12 names in a folder, for error messages."""
    names = sorted(printable(path.name) for path in folder.iterdir())
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more if names else "nothing"
