"""Maps the 894 labels of NYUv2 to 40 or 13 classes, and holds the official split."""

import functools
import json
from importlib import resources
from typing import TypedDict

import numpy as np
from jaxtyping import Int, Int8, UInt8

NUM_LABELS = 894  # labels in the release; 0 is unlabelled
NUM_FRAMES = 1449


class _Labels(TypedDict):
    """The content of labels.json; classes, labels and frames are numbered from 1, as published."""

    classes13: list[str]
    classes40: list[str]
    map894to40: list[int]
    map40to13: list[int]
    train: list[int]


@functools.cache
def _labels() -> _Labels:
    return json.loads((resources.files(__package__) / "labels.json").read_text())


def names(num_classes: int) -> tuple[str, ...]:
    """Returns the names of the 13 or 40 classes, by index in the class map."""
    return tuple(_labels()["classes13"] if num_classes == 13 else _labels()["classes40"])


def class_map(num_classes: int) -> Int8[np.ndarray, "895"]:
    """Returns the class of each label of the release; label 0 is void (-1)."""
    classes = np.concatenate([[0], _labels()["map894to40"]])
    if num_classes == 13:
        classes = np.concatenate([[0], _labels()["map40to13"]])[classes]
    return (classes - 1).astype(np.int8)


def official_split() -> dict[str, Int[np.ndarray, "frames"]]:
    """Returns the 1-based numbers of the 795 training frames ("train") and the 654 test frames ("val")."""
    train = np.array(_labels()["train"])
    return {"train": train, "val": np.setdiff1d(np.arange(1, NUM_FRAMES + 1), train)}


def palette(num_classes: int) -> UInt8[np.ndarray, "classes 3"]:
    """Returns distinct colours: bit i of the class number sets channel i mod 3, low bits in the largest steps."""
    number = np.arange(1, num_classes + 1)[:, None]
    channel = np.arange(3)
    bits = [((number >> (channel + 3 * i)) & 1) << (7 - i) for i in range(2)]
    return np.add.reduce(bits).astype(np.uint8)
