"""The class maps of Cityscapes: 34 label ids -> 19, 7 or 2 classes."""

import dataclasses
import functools
import json
from importlib import resources
from typing import Any

import numpy as np
from jaxtyping import Int8, UInt8


@dataclasses.dataclass(frozen=True, eq=False)
class Classes:
    """A reading of the label ids.

    Attributes:
        names: of the classes.
        palette: a colour a class.
        class_map: the class of each label id from 0 on, -1 where void.
    """

    names: tuple[str, ...]
    palette: UInt8[np.ndarray, "classes 3"]
    class_map: Int8[np.ndarray, "ids"]


@functools.cache
def _meta() -> dict[str, Any]:
    return json.loads((resources.files(__package__) / "labels.json").read_text())


def read_classes(num_classes: int, category_ids: str) -> Classes:
    """The 19, 7 or 2 classes; `category_ids` ("all" or "evaluated") matters for the 7 categories only."""
    entry = _meta()["7-evaluated" if (num_classes, category_ids) == (7, "evaluated") else str(num_classes)]
    return Classes(
        names=tuple(entry["classes"]),
        palette=np.array(entry["palette"], np.uint8),
        class_map=np.array(entry["map"], np.int8),
    )
