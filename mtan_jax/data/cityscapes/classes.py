"""Maps the 34 label ids of Cityscapes to 19, 7 or 2 classes."""

import dataclasses
import functools
import json
from importlib import resources
from typing import TypedDict

import numpy as np
from jaxtyping import Int8, UInt8


@dataclasses.dataclass(frozen=True, eq=False)
class Classes:
    """A set of classes and the map from label ids to them.

    Attributes:
        names: the class names.
        palette: one RGB colour per class.
        class_map: the class of each label id, starting at id 0; -1 is void.
    """

    names: tuple[str, ...]
    palette: UInt8[np.ndarray, "classes 3"]
    class_map: Int8[np.ndarray, "ids"]


class _Entry(TypedDict):
    """An entry of labels.json."""

    classes: list[str]
    palette: list[list[int]]
    map: list[int]


@functools.cache
def _entries() -> dict[str, _Entry]:
    return json.loads((resources.files(__package__) / "labels.json").read_text())


def read_classes(num_classes: int, category_ids: str) -> Classes:
    """Returns the 19, 7 or 2 classes; `category_ids` ("all" or "evaluated") only affects the 7 categories."""
    entry = _entries()["7-evaluated" if (num_classes, category_ids) == (7, "evaluated") else str(num_classes)]
    return Classes(
        names=tuple(entry["classes"]),
        palette=np.array(entry["palette"], np.uint8),
        class_map=np.array(entry["map"], np.int8),
    )
