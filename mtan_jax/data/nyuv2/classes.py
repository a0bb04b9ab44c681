"""The class maps of NYUv2: 894 names of the release -> 40 classes -> 13 classes, and the official split."""

import functools
import json
from importlib import resources
from typing import Any

import numpy as np
from jaxtyping import Int, Int8, UInt8

NUM_LABELS = 894  # labels of the release; 0 is unlabelled
NUM_FRAMES = 1449


@functools.cache
def _meta() -> dict[str, Any]:
    return json.loads((resources.files(__package__) / "labels.json").read_text())


def names(num_classes: int) -> tuple[str, ...]:
    """Names of the 13 or 40 classes, by position in the class map."""
    return tuple(_meta()[f"classes{num_classes}"])


def class_map(num_classes: int) -> Int8[np.ndarray, "895"]:
    """The class of each label of the release; -1 for label 0, which is void."""
    classes = np.concatenate([[0], _meta()["map894to40"]])  # counted from 1, as published
    if num_classes == 13:
        classes = np.concatenate([[0], _meta()["map40to13"]])[classes]
    return (classes - 1).astype(np.int8)


def official_split() -> dict[str, Int[np.ndarray, "frames"]]:
    """The 1-based numbers of the 795 training and 654 test frames, the latter as "val"."""
    train = np.array(_meta()["train"])
    return {"train": train, "val": np.setdiff1d(np.arange(1, NUM_FRAMES + 1), train)}


def palette(num_classes: int) -> UInt8[np.ndarray, "classes 3"]:
    """Colours that differ early: bit i of a class number goes to channel i mod 3, low bits to bright steps."""
    number = np.arange(1, num_classes + 1)[:, None]
    channel = np.arange(3)
    bits = [((number >> (channel + 3 * i)) & 1) << (7 - i) for i in range(2)]
    return np.add.reduce(bits).astype(np.uint8)
