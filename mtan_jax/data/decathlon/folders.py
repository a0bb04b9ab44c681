"""A set of labelled images in folders: `SET/{train,val,test}/CLASS/*.jpg`."""

import dataclasses
import logging
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mtan_jax.data.decathlon.layouts import FOLDERS, LAYOUTS
from mtan_jax.data.decathlon.left_out import LeftOut
from mtan_jax.data.decathlon.listing import Group, Listing, Split
from mtan_jax.data.decathlon.scan import Scan, check_links, check_names, scan
from mtan_jax.data.decathlon.sets import NUM_CLASSES
from mtan_jax.data.errors import RawDataError
from mtan_jax.data.raw.image_files import printable
from mtan_jax.data.raw.raw_layout import RawLayout

SPLITS = ("train", "val", "test")

log = logging.getLogger(__name__)


class FolderSet:
    """Reads a set of any name, with the classes of its folder `train`, in the order of their names.

    "val" and "test" may lack classes of "train", not the other way round. Links are followed. Stray files and folders,
    such as `.ipynb_checkpoints`, `._1.jpg` or `Thumbs.db`, are skipped; `check` logs what else is left out.

    Args:
        raw_dir: holds the sets' folders; None where not given.
        set_name: of the set.
    """

    layout: ClassVar[RawLayout] = FOLDERS
    data_folders: ClassVar[tuple[str, ...]] = ("",)  # where sets are looked for below `raw_dir`, in this order

    def __init__(self, raw_dir: Path | None, set_name: str):
        self._raw_dir = raw_dir
        self._set_name = set_name
        self._kept: Listing | None = None
        dataset = f"{self.layout.dataset}: the set {set_name!r}"
        self._layout = dataclasses.replace(self.layout, dataset=dataset)  # for messages

    def check(self) -> None:
        """Looks at the folders anew; raises RawDataError where something is missing or does not fit together.

        Logs what is left out and which classes look wrong. A process that only calls `example` need not call this.
        """
        left_out = LeftOut()
        self._kept = None
        self._kept = self._list(left_out)
        if left_out_text := str(left_out):
            log.warning("%s: left out %s", self._kept.folder, left_out_text)
        self._compare_classes(self._kept)

    def class_names(self) -> tuple[str, ...]:
        return self._listing.classes

    def metadata(self) -> dict[str, Any]:
        """What else is kept with the prepared set."""
        return {}

    def split_sizes(self) -> dict[str, int]:
        return {name: len(split) for name, split in self._listing.splits.items()}

    def example(self, split: str, index: int) -> dict[str, Any]:
        """The example `index` of a split; "image" is the path of the file."""
        listing = self._listing
        file, label = listing.splits[split][index]
        return {"id": self._identity(split, index, file), "image": f"{listing.folder}/{file}", "label": label}

    def raw_files(self) -> Iterator[str]:
        """Yields the paths of all pictures in the order of the examples, as they are now; none without the set."""
        folder = self._find()
        for split in SPLITS if folder is not None else ():
            place = f"{folder}/{split}"
            if not os.path.isdir(place):
                continue
            found = scan(place)
            for name in found.folders:
                yield from (f"{place}/{name}/{file}" for file in scan(f"{place}/{name}").pictures)
            if split == "test":
                yield from (f"{place}/{file}" for file in found.pictures)

    def _identity(self, split: str, index: int, file: str) -> str:
        """The id of an example, unique in all sets, such as "dtd/train/banded/banded_0002.jpg"."""
        del split, index
        return f"{self._set_name}/{file}"

    @property
    def _listing(self) -> Listing:
        if self._kept is None:
            self._kept = self._list(None)
        return self._kept

    def _list(self, left_out: LeftOut | None) -> Listing:
        """Lists the set. With `left_out`, checks names and links too, and adds what is left out."""
        folder = self._folder()
        classes = tuple(scan(folder / "train").folders)
        if not classes:
            raise self._layout.missing(self._raw_dir, f"{folder / 'train'} holds no folders of classes.")
        present = [split for split in SPLITS if (folder / split).is_dir()]
        return Listing(
            folder, classes, {split: self._list_split(folder, split, classes, left_out) for split in present}
        )

    def _list_split(self, folder: Path, split: str, classes: Sequence[str], left_out: LeftOut | None) -> Split:
        labels = {name: label for label, name in enumerate(classes)}
        found, place = scan(folder / split), f"{folder}/{split}"
        if left_out is not None:
            _check(place, found)
            left_out.add_files(split, found.others)
            if split != "test":
                left_out.add_loose_pictures(split, found.pictures)
        groups = []
        for name in found.folders:
            if name not in labels:
                raise _unknown_class(folder, split, name, classes)
            inside = scan(f"{place}/{name}")
            if left_out is not None:
                _check(f"{place}/{name}", inside)
                left_out.add_files(f"{split}/{name}", inside.others)
                left_out.add_nested_folders(f"{split}/{name}", inside.folders)
            if not inside.pictures:
                raise _no_pictures(f"{place}/{name}", inside)
            groups.append(Group(f"{split}/{name}", labels[name], inside.pictures))
        if split == "test" and found.pictures:
            groups.append(Group(split, -1, found.pictures))
        if not groups:
            raise self._layout.missing(self._raw_dir, f"{folder / split} holds no pictures.")
        return Split(groups)

    def _compare_classes(self, listing: Listing) -> None:
        """Raises RawDataError for class names that look the same; logs those that are suspicious."""
        first: dict[str, str] = {}
        pairs = [(first.setdefault(_folded(name), name), name) for name in listing.classes]
        by_case = [(one, other) for one, other in pairs if one != other]
        for one, other in by_case:
            if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
                raise RawDataError(
                    f"{listing.folder}/train: two class folders are called {other!r}, composed of different Unicode "
                    f"characters: {one!a} and {other!a}. Merge them."
                )
        if by_case:
            log.warning(
                "%s: the names of %d classes differ from others only by case, such as %r and %r; each is a class",
                *(listing.folder, len(by_case), *by_case[0]),
            )
        missing = set(range(len(listing.classes))) - {group.label for group in listing.splits["val"].groups}
        if missing:
            log.warning(
                "%s: %d of %d classes have no folder in val, such as %r",
                *(listing.folder, len(missing), len(listing.classes), listing.classes[min(missing)]),
            )

    def _find(self) -> Path | None:
        """The folder of the set, if it is there."""
        if self._raw_dir is None:
            return None
        folders = [self._raw_dir / folder / self._set_name for folder in self.data_folders]
        return next(filter(Path.is_dir, folders), None)

    def _folder(self) -> Path:
        """The folder of the set, which has at least "train" and "val"."""
        raw_dir = self._raw_dir
        if raw_dir is None or not raw_dir.is_dir():
            raise self._layout.missing(raw_dir)
        folder = self._find()
        if folder is None:
            for other in LAYOUTS.values() if self._set_name in NUM_CLASSES else ():
                if other.lies_in(raw_dir) and not self.layout.lies_in(raw_dir):
                    raise self._layout.wrong_layout(raw_dir, other)
            places = [raw_dir / place for place in self.data_folders if (raw_dir / place).is_dir()]
            place = places[0] if places else raw_dir
            archive = place / f"{self._set_name}.tar"
            todo = f" Extract {archive}." if archive.is_file() else ""
            raise self._layout.missing(
                raw_dir, f"There is no set {self._set_name!r}: {place} holds {_content(place)}.{todo}"
            )
        for split in ("train", "val"):
            if not (folder / split).is_dir():
                raise self._layout.missing(
                    raw_dir, f"There is no split {split!r} of {self._set_name!r}: {folder} holds {_content(folder)}."
                )
        return folder


def _check(folder: str, found: Scan) -> None:
    check_names(folder, found.pictures)
    check_names(folder, found.folders)
    check_links(folder, found)


def _unknown_class(folder: Path, split: str, name: str, classes: Sequence[str]) -> RawDataError:
    place = printable(folder / split / name)
    for other in classes:
        if _folded(other) == _folded(name):
            return RawDataError(
                f"{place}: a class that train lacks; a class of train differs only by case or by composed characters: "
                f"{other!a} there, {name!a} here. Give both the same name."
            )
    return RawDataError(
        f"{place}: a class that train lacks; {folder / 'train'} holds {_content(folder / 'train')}. "
        "Add it there, or remove it here."
    )


def _no_pictures(folder: str, found: Scan) -> RawDataError:
    if found.folders:
        inside = f"{folder}/{found.folders[0]}"
        return RawDataError(
            f"{printable(folder)}: holds no pictures but the folder {printable(inside)}. Pictures must lie in the "
            "class folder itself: move them there."
        )
    return RawDataError(
        f"{printable(folder)}: holds no pictures (it holds {_content(Path(folder))}). Fill the folder or remove it."
    )


def _folded(name: str) -> str:
    """What names have in common that differ only by case or by how Unicode characters are composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _content(folder: Path) -> str:
    """What lies in a folder, for messages."""
    names = sorted(printable(path.name) for path in folder.iterdir())
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more if names else "nothing"
