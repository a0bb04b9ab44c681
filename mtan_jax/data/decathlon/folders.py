"""A set of labelled images in folders: `SET/{train,val,test}/CLASS/*.jpg`."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from mtan_jax.data.builder import RawDataError
from mtan_jax.data.decathlon.layouts import FOLDERS, LAYOUTS
from mtan_jax.data.raw_layout import RawLayout

SPLITS = ("train", "val", "test")
SUFFIXES = (".jpg", ".jpeg", ".png")


class Picture(NamedTuple):
    """A picture of a set; `file` is its place below the set's folder, `label` is -1 where unknown."""

    file: str
    label: int
    identity: str  # unique in all sets, such as "dtd/train/banded/banded_0002.jpg"


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """What lies in the folder of a set.

    Attributes:
        folder: of the set.
        classes: names of the classes, in the order of the labels.
        pictures: of each split, in the order of classes and names.
        metadata: what else is kept with the prepared set.
    """

    folder: Path
    classes: tuple[str, ...]
    pictures: dict[str, list[Picture]]
    metadata: dict[str, Any]


class FolderSet:
    """Reads a set of any name, with the classes of its folder `train`, in the order of their names.

    "val" and "test" may lack classes of "train", not the other way round. Files with other endings than .jpg, .jpeg and
    .png are left out.

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
        """Looks at the folders anew; raises RawDataError where something is missing or does not fit together."""
        self._kept = self._list()

    def class_names(self) -> tuple[str, ...]:
        return self._listing.classes

    def metadata(self) -> dict[str, Any]:
        return self._listing.metadata

    def split_sizes(self) -> dict[str, int]:
        return {split: len(pictures) for split, pictures in self._listing.pictures.items()}

    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        """Yields the examples of a split; "image" is the path of the file."""
        listing = self._listing
        for picture in listing.pictures[split]:
            yield {"id": picture.identity, "image": str(listing.folder / picture.file), "label": picture.label}

    def raw_files(self) -> dict[str, int]:
        """Names and sizes of all pictures; empty where the set is not there."""
        folder = self._find()
        if self._raw_dir is None or folder is None:
            return {}
        sizes = {}
        for split in SPLITS:
            for parent, _, names in os.walk(folder / split):
                for path in (Path(parent, name) for name in names if _is_picture(name)):
                    sizes[path.relative_to(self._raw_dir).as_posix()] = path.stat().st_size
        return sizes

    @property
    def _listing(self) -> Listing:
        if self._kept is None:
            self._kept = self._list()
        return self._kept

    def _list(self) -> Listing:
        folder = self._folder()
        classes = _sub_folders(folder / "train")
        if not classes:
            raise self._layout.missing(self._raw_dir, f"{folder / 'train'} holds no folders of classes.")
        splits = [split for split in SPLITS if (folder / split).is_dir()]
        pictures = {split: self._list_split(folder, split, classes) for split in splits}
        return Listing(folder, classes, pictures, metadata={})

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
            for other in LAYOUTS.values():
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

    def _list_split(self, folder: Path, split: str, classes: tuple[str, ...]) -> list[Picture]:
        labels = {name: label for label, name in enumerate(classes)}
        files: list[tuple[str, int]] = []
        for name in _sub_folders(folder / split):
            if name not in labels:
                raise RawDataError(
                    f"{folder / split / name}: a class that train lacks; {folder / 'train'} holds "
                    f"{_content(folder / 'train')}. Add it there, or remove it here."
                )
            found = _pictures(folder / split / name)
            if not found:
                raise RawDataError(
                    f"{folder / split / name}: holds no pictures ({', '.join(SUFFIXES)}). Fill the folder or remove it."
                )
            files += [(f"{split}/{name}/{file}", labels[name]) for file in found]
        if split == "test":
            files += [(f"{split}/{file}", -1) for file in _pictures(folder / split)]
        if not files:
            raise self._layout.missing(self._raw_dir, f"{folder / split} holds no pictures.")
        return [Picture(file, label, f"{self._set_name}/{file}") for file, label in files]


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _sub_folders(folder: Path) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")))


def _pictures(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if _is_picture(entry.name) and entry.is_file())


def _content(folder: Path) -> str:
    """What lies in a folder, for messages."""
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more if names else "nothing"
