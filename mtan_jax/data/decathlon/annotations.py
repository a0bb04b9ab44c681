"""Reads the COCO annotations of a Visual Decathlon split as a stream, since those of ImageNet have 400 MB."""

import array
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import numpy as np
from jaxtyping import Int

from mtan_jax.data.decathlon.listing import Positions, Split
from mtan_jax.data.errors import RawDataError


@dataclasses.dataclass(frozen=True, eq=False)
class Annotations:
    """The annotations of a split, in the order of its image files.

    Attributes:
        image_ids: id of each image.
        category_ids: category of each image; empty for test images.
    """

    image_ids: Int[np.ndarray, " n"]
    category_ids: Int[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Content:
    """The numbers in a file, in its order.

    Attributes:
        image_ids: id of each image entry.
        positions: index of each image entry in the split; -1 if the split lacks the file.
        unknown: the alphabetically first file that the split lacks, and the number of such files.
        annotated: image id of each annotation.
        categories: category id of each annotation.
        known_categories: ids of the categories.
    """

    image_ids: Int[np.ndarray, " images"]
    positions: Int[np.ndarray, " images"]
    unknown: tuple[str, int]
    annotated: Int[np.ndarray, " annotations"]
    categories: Int[np.ndarray, " annotations"]
    known_categories: Int[np.ndarray, " categories"]


class _Image(TypedDict):
    """An entry of "images"."""

    id: int
    file_name: str


class _Annotation(TypedDict):
    """An entry of "annotations"."""

    image_id: int
    category_id: int


class _Category(TypedDict):
    """An entry of "categories"."""

    id: int


def read_annotations(path: Path, folder: Path, split: Split, *, is_test: bool) -> Annotations:
    """Reads the annotations of a split and matches them with its image files.

    Args:
        path: path of the annotations.
        folder: the dataset's folder, for error messages.
        split: the image files.
        is_test: whether the file has no annotations and the images are not in class folders.

    Raises:
        RawDataError: if the file is missing, damaged or inconsistent, or does not match the image files.
    """
    content = _read(path, split, is_test)
    _check_references(path, content)
    if content.unknown[1]:
        raise RawDataError(
            f"{path}: lists {content.unknown[0]} (and {content.unknown[1] - 1} more), which is not in {folder}. "
            "Extract the dataset again. To use a part of it, set --config.data.options.layout=folders."
        )
    listed = np.zeros(len(split), bool)
    listed[content.positions] = True
    if not listed.all():
        raise RawDataError(
            f"{path}: does not list {folder / split[int(listed.argmin())].file} (and {(~listed).sum() - 1} more). "
            "Remove files that are not part of the release, or download the annotations again."
        )
    image_ids = np.zeros(len(split), np.int64)
    image_ids[content.positions] = content.image_ids
    ids, counts = np.unique(image_ids, return_counts=True)
    if (counts > 1).any():
        raise RawDataError(f"{path}: several images have the id {ids[counts.argmax()]}. Download the file again.")
    if is_test:
        return Annotations(image_ids, np.zeros(0, np.int64))
    order = np.argsort(content.image_ids, kind="stable")
    found = np.searchsorted(content.image_ids[order], content.annotated)
    positions = content.positions[order][found]
    annotated, category_ids = np.zeros(len(split), bool), np.zeros(len(split), np.int64)
    annotated[positions], category_ids[positions] = True, content.categories
    if not annotated.all():
        raise RawDataError(
            f"{path}: {split[int(annotated.argmin())].file} has no annotation. Download the annotations again."
        )
    return Annotations(image_ids, category_ids)


def _read(path: Path, split: Split, is_test: bool) -> _Content:
    import ijson

    # File names in the release begin with "data/SET/". The rest is the path relative to the dataset's folder.
    parts = 2 if is_test else 3
    known_files = Positions(split)
    image_ids, positions, annotated, categories, known = (array.array("q") for _ in range(5))
    unknown, first = 0, ""
    with _named_errors(path), open(path, "rb") as file:
        if next(ijson.basic_parse(file))[0] != "start_map":
            raise TypeError("expected a JSON object")
        images: Iterator[_Image] = _items(file, "images")
        for image in images:
            name = "/".join(image["file_name"].split("/")[-parts:])
            image_ids.append(image["id"])
            positions.append(known_files.find(name))
            if positions[-1] < 0:
                unknown, first = unknown + 1, min(first or name, name)
        if not image_ids:
            raise KeyError("images")
        if not is_test:
            annotations: Iterator[_Annotation] = _items(file, "annotations")
            for annotation in annotations:
                annotated.append(annotation["image_id"])
                categories.append(annotation["category_id"])
            known_categories: Iterator[_Category] = _items(file, "categories")
            known.extend(category["id"] for category in known_categories)
    return _Content(
        image_ids=np.array(image_ids, np.int64),
        positions=np.array(positions, np.int64),
        unknown=(first, unknown),
        annotated=np.array(annotated, np.int64),
        categories=np.array(categories, np.int64),
        known_categories=np.array(known, np.int64),
    )


def _check_references(path: Path, content: _Content) -> None:
    if (lacking := np.setdiff1d(content.annotated, content.image_ids)).size:
        raise RawDataError(
            f"{path}: an annotation refers to image {lacking[0]}, which is not in the file. Download the file again."
        )
    if (lacking := np.setdiff1d(content.categories, content.known_categories)).size:
        raise RawDataError(
            f"{path}: an annotation refers to category {lacking[0]}, which is not in the file. Download the file again."
        )


def _items(file: BinaryIO, key: str) -> Iterator[Any]:
    """Yields the entries of one of the file's lists: JSON of unchecked types, which callers annotate."""
    import ijson

    file.seek(0)
    return ijson.items(file, f"{key}.item", use_float=True)


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turns errors of reading and of unexpected content into a RawDataError that names the file."""
    import ijson

    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, ijson.JSONError) as error:
        raise RawDataError(f"{path}: cannot read COCO annotations ({error!r}). Download the file again.") from error
