"""Prepared examples in the types of the batch contract, with errors that say what is wrong."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Shaped

Example = dict[str, Any]


class PreparedDataError(ValueError):
    """A prepared data set cannot be read; the message says which and what would do."""


class Records:
    """The stored examples of a split; safe to share among threads and to pickle.

    Args:
        source: `builder.as_data_source(split)`, or any sequence of examples.
        encoded: names of pictures that are left as they are stored.

    Raises:
        ValueError: the source is empty.
        PreparedDataError: the source cannot be read.
    """

    def __init__(self, source: Sequence[Any], encoded: Sequence[str] = ()):
        info = getattr(source, "dataset_info", None)
        self._folder = None if info is None else os.fspath(info.data_dir)
        # A TFDS source pickles its builder, which workers could not make again; these two parts are all it takes.
        self._records = source if info is None else source.data_source  # type: ignore[attr-defined]
        self._features = None if info is None else info.features
        self._decoders = {name: tfds.decode.SkipDecoding() for name in encoded}
        if not len(self._records):
            raise ValueError(f"{self.name} holds no examples; at least 1 is needed.")

    @property
    def name(self) -> str:
        """What messages call it."""
        return "The source" if self._folder is None else f"The data set prepared in {self._folder}"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        try:
            record = self._records[index]
            if self._features is None:
                return record
            return self._features.deserialize_example_np(record, decoders=self._decoders)
        except Exception as error:
            if self._folder is None:
                raise
            # array_record and TFDS raise errors of many types for damaged files; none names the way out.
            raise PreparedDataError(
                f"{self.name} cannot be read: example {index} is damaged or missing ({error}). "
                "Delete this folder and run the same command again: it prepares the data set anew."
            ) from error


class Examples:
    """A split, read and brought to the types of the batch contract; safe to share among threads and to pickle.

    Example i is `{"id": str, "image": float32 [h, w, 3] in 0..1, "targets": {name: int32 or float32 [h, w, ...]},
    "labelled": {name: bool}, "weight": 1}`. Targets of whole numbers become int32, others float32.

    Args:
        source: `builder.as_data_source(split)` of a `DenseBuilder`, or any sequence of examples as it describes them.
        targets: names of the targets that are used.

    Raises:
        ValueError: the source is empty or lacks a target.
        PreparedDataError: the source cannot be read.
    """

    def __init__(self, source: Sequence[Any], targets: Sequence[str]):
        self._records = Records(source)
        self._targets = tuple(targets)
        found = self._records[0].keys() - {"id", "image", "labelled"}
        if lacking := [target for target in self._targets if target not in found]:
            raise ValueError(
                f"{self._records.name} has no target {lacking[0]!r}; it has {', '.join(sorted(found)) or 'none'}."
            )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        example = self._records[index]
        name = example["id"]
        return {
            "id": name.decode() if isinstance(name, bytes) else str(name),
            "image": _unit_range(example["image"]),
            "targets": {target: _wide(example[target]) for target in self._targets},
            "labelled": {target: np.bool_(example["labelled"][target]) for target in self._targets},
            "weight": np.float32(1),
        }

    def __repr__(self) -> str:
        return f"Examples({self._records.name}, {len(self)})"


def blank(example: Example) -> Example:
    """A row that pads a batch: of the same shapes, without an image, labels or weight."""
    return example | {
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


def _wide(target: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "h w *c"]:
    return target.astype(np.float32 if target.dtype.kind == "f" else np.int32, copy=False)
