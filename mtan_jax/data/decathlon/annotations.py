"""COCO annotations of a split of Visual Decathlon, read as a stream: those of ImageNet have 400 MB."""

import array
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson
import numpy as np
from jaxtyping import Int

from mtan_jax.data.decathlon.listing import Positions, Split
from mtan_jax.data.errors import RawDataError


@dataclasses.dataclass(frozen=True, eq=False)
class Annotations:
    """The annotations of a split, in the order of its pictures.

    Attributes:
        image_ids: of the pictures.
        category_ids: of the pictures; empty for test images.
    """

    image_ids: Int[np.ndarray, " n"]
    category_ids: Int[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Content:
    """The numbers of a file, in its order.

    Attributes:
        image_ids: of the images.
        positions: of the images among the pictures of the split; -1 where the split lacks them.
        unknown: the first of the missing images by name, and how many there are.
        annotated: the image ids of the annotations.
        categories: the category ids of the annotations.
        known_categories: the ids of the file's categories.
    """

    image_ids: Int[np.ndarray, " images"]
    positions: Int[np.ndarray, " images"]
    unknown: tuple[str, int]
    annotated: Int[np.ndarray, " annotations"]
    categories: Int[np.ndarray, " annotations"]
    known_categories: Int[np.ndarray, " categories"]


def read_annotations(path: Path, folder: Path, split: Split, *, is_test: bool) -> Annotations:
    """Reads the annotations of the very pictures of a split.

    Args:
        path: of the file.
        folder: of the set, for messages.
        split: the pictures.
        is_test: whether the file has no annotations, and the pictures no folders of classes.

    Raises:
        RawDataError: the file is missing or damaged, contradicts itself, or does not fit the pictures.
    """
    content = _read(path, split, is_test)
    _check_references(path, content)
    if content.unknown[1]:
        raise RawDataError(
            f"{path}: names {content.unknown[0]} (and {content.unknown[1] - 1} more), which {folder} does not hold. "
            "Extract the set anew; a part of it can be read with --config.data.options.layout=folders."
        )
    named = np.zeros(len(split), bool)
    named[content.positions] = True
    if not named.all():
        raise RawDataError(
            f"{path}: does not name {folder / split[int(named.argmin())].file} (and {(~named).sum() - 1} more). Remove "
            "what is not of the release, or get the annotations anew."
        )
    image_ids = np.zeros(len(split), np.int64)
    image_ids[content.positions] = content.image_ids
    ids, counts = np.unique(image_ids, return_counts=True)
    if (counts > 1).any():
        raise RawDataError(f"{path}: several images have the id {ids[counts.argmax()]}. Get the file anew.")
    if is_test:
        return Annotations(image_ids, np.zeros(0, np.int64))
    order = np.argsort(content.image_ids, kind="stable")
    found = np.searchsorted(content.image_ids[order], content.annotated)
    pictures = content.positions[order][found]
    annotated, category_ids = np.zeros(len(split), bool), np.zeros(len(split), np.int64)
    annotated[pictures], category_ids[pictures] = True, content.categories
    if not annotated.all():
        raise RawDataError(f"{path}: no annotation of {split[int(annotated.argmin())].file}. Get the annotations anew.")
    return Annotations(image_ids, category_ids)


def _read(path: Path, split: Split, is_test: bool) -> _Content:
    # The release's names begin with "data/SET/"; the end of them is the path below the folder of the set.
    parts = 2 if is_test else 3
    places = Positions(split)
    image_ids, positions, annotated, categories, known = (array.array("q") for _ in range(5))
    unknown, first = 0, ""
    with _named_errors(path), open(path, "rb") as file:
        if next(ijson.basic_parse(file))[0] != "start_map":
            raise TypeError("it holds no object")
        for image in _items(file, "images"):
            name = "/".join(image["file_name"].split("/")[-parts:])
            image_ids.append(image["id"])
            positions.append(places.find(name))
            if positions[-1] < 0:
                unknown, first = unknown + 1, min(first or name, name)
        if not image_ids:
            raise KeyError("images")
        if not is_test:
            for annotation in _items(file, "annotations"):
                annotated.append(annotation["image_id"])
                categories.append(annotation["category_id"])
            known.extend(category["id"] for category in _items(file, "categories"))
    as_numbers = (np.array(numbers, np.int64) for numbers in (image_ids, positions, annotated, categories, known))
    ids, places_found, *others = as_numbers
    return _Content(ids, places_found, (first, unknown), *others)


def _check_references(path: Path, content: _Content) -> None:
    if (lacking := np.setdiff1d(content.annotated, content.image_ids)).size:
        raise RawDataError(
            f"{path}: an annotation names the image {lacking[0]}, which is not among its images. Get the file anew."
        )
    if (lacking := np.setdiff1d(content.categories, content.known_categories)).size:
        raise RawDataError(
            f"{path}: an annotation names the category {lacking[0]}, which is not among its categories. Get the file "
            "anew."
        )


def _items(file: Any, key: str) -> Iterator[dict[str, Any]]:
    """Yields the entries of one of the file's lists."""
    file.seek(0)
    return ijson.items(file, f"{key}.item", use_float=True)


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, ijson.JSONError) as error:
        raise RawDataError(f"{path}: COCO annotations could not be read ({error!r}). Get the file anew.") from error
