"""Reads prepared examples and converts them to the dtypes of `mtan_jax.types.Batch`."""

import os
from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Shaped, UInt8

from mtan_jax.data.errors import PreparedDataError
from mtan_jax.data.preparation.preparable import StoredExample


class Example(TypedDict):
    """One row of a `mtan_jax.types.Batch`.

    Attributes:
        id: unique in the dataset; "" for padding.
        image: float32 in 0..1; for sets of labelled images uint8 until it is cropped and normalised.
        targets: int32 or float32, by target name.
        labelled: whether each target is labelled.
        weight: 0 for padding, else 1.
        task: index of the set in the order of the tasks, for sets of labelled images.
    """

    id: str
    image: Float[np.ndarray, "h w 3"] | UInt8[np.ndarray, "h w 3"]
    targets: dict[str, Shaped[np.ndarray, "..."]]
    labelled: dict[str, np.bool_]
    weight: np.float32
    task: NotRequired[np.int32]


class Records:
    """The stored examples of a split; thread-safe and picklable.

    Args:
        source: `builder.as_data_source(split)`, or any sequence of examples.
        encoded: names of features that are not decoded.

    Raises:
        ValueError: the source is empty.
        PreparedDataError: the source cannot be read.
    """

    def __init__(self, source: Sequence[StoredExample], encoded: Sequence[str] = ()):
        info = getattr(source, "dataset_info", None)
        self._folder = None if info is None else os.fspath(info.data_dir)
        # A TFDS source pickles its builder, which workers cannot make again; these two parts are sufficient.
        self._records = source if info is None else source.data_source  # type: ignore[attr-defined]
        self._features = None if info is None else info.features
        self._decoders = {name: tfds.decode.SkipDecoding() for name in encoded}
        if not len(self._records):
            raise ValueError(f"{self.name} holds no examples; at least 1 is needed.")

    @property
    def name(self) -> str:
        """The name for messages."""
        return "The source" if self._folder is None else f"The dataset prepared in {self._folder}"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> StoredExample:
        try:
            record = self._records[index]
            if self._features is None:
                return record
            return self._features.deserialize_example_np(record, decoders=self._decoders)
        except Exception as error:
            if self._folder is None:
                raise
            # For damaged files array_record and TFDS raise errors of many types, none of which names a remedy.
            raise PreparedDataError(
                f"{self.name} cannot be read: example {index} is damaged or missing ({error}). "
                "Delete this folder and run the same command again: it prepares the dataset again."
            ) from error


class Examples:
    """The examples of a split of a dense dataset; thread-safe and picklable.

    uint8 images become float32 in 0..1, integer targets int32 and other targets float32.

    Args:
        source: `builder.as_data_source(split)` of a `DenseBuilder`, or any sequence of examples in that format.
        targets: names of the targets to read.

    Raises:
        ValueError: the source is empty or lacks a target.
        PreparedDataError: the source cannot be read.
    """

    def __init__(self, source: Sequence[StoredExample], targets: Sequence[str]):
        self._records = Records(source)
        self._targets = tuple(targets)
        found = self._records[0].keys() - {"id", "image", "labelled"}
        if missing := [target for target in self._targets if target not in found]:
            raise ValueError(
                f"{self._records.name} has no target {missing[0]!r}; it has {', '.join(sorted(found)) or 'none'}."
            )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        example = self._records[index]
        name = example["id"]
        return {
            "id": name.decode() if isinstance(name, bytes) else str(name),
            "image": _unit_range(example["image"]),
            "targets": {target: _widened(example[target]) for target in self._targets},
            "labelled": {target: np.bool_(example["labelled"][target]) for target in self._targets},
            "weight": np.float32(1),
        }

    def __repr__(self) -> str:
        return f"Examples({self._records.name}, {len(self)})"


def blank(example: Example) -> Example:
    """A padding row: the same shapes, but a black image, undefined targets and weight 0."""
    return {
        **example,
        "id": "",
        "image": np.zeros_like(example["image"]),
        "targets": {
            name: np.full_like(target, -1 if target.dtype.kind == "i" else 0)
            for name, target in example["targets"].items()
        },
        "labelled": dict.fromkeys(example["labelled"], np.False_),
        "weight": np.float32(0),
    }


def _unit_range(image: Shaped[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    if image.dtype == np.uint8:
        return np.divide(image, 255, dtype=np.float32)
    return image.astype(np.float32, copy=False)


def _widened(target: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "h w *c"]:
    return target.astype(np.float32 if target.dtype.kind == "f" else np.int32, copy=False)
