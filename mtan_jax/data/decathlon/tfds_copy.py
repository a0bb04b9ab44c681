"""Reads Visual Decathlon datasets prepared by TFDS: `visual_domain_decathlon/DATASET/VERSION`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

import tensorflow_datasets as tfds

from mtan_jax.data.decathlon.layouts import TFDS
from mtan_jax.data.errors import RawDataError
from mtan_jax.data.raw.image_files import is_stray

_NAME = "visual_domain_decathlon"
_SPLITS = {"train": "train", "val": "validation", "test": "test"}  # our names and those of TFDS


class _StoredExample(TypedDict):
    """An example as TFDS stores it; `image` is the encoded file."""

    name: bytes
    image: bytes
    label: int


class TfdsSet:
    """Reads a dataset prepared with the TFDS builder, without TensorFlow.

    TFDS stores neither the names of classes nor the ids for the challenge's results file. The names are "0", "1", ...

    Args:
        folders: folders to search for prepared datasets, in this order.
        set_name: one of the ten datasets.
    """

    def __init__(self, folders: Sequence[Path], set_name: str):
        self._folders = tuple(folders)
        self._set_name = set_name
        self._sources: dict[str, Sequence[_StoredExample]] = {}  # the open splits

    def check(self) -> None:
        """Checks the prepared dataset.

        Raises:
            RawDataError: if it is missing, not stored as array_record, or lacks "train" or "validation".
        """
        self._sources.clear()
        self._open()

    def class_names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self._open().info.features["label"].num_classes)))

    def metadata(self) -> dict[str, object]:
        return {}

    def split_sizes(self) -> dict[str, int]:
        splits = self._open().info.splits
        return {ours: splits[theirs].num_examples for ours, theirs in _SPLITS.items() if theirs in splits}

    def example(self, split: str, index: int) -> dict[str, object]:
        """Returns an example of a split; "image" is the encoded file, the id is the file name stored by TFDS."""
        source = self._sources.get(split)
        if source is None:
            as_stored = {"image": tfds.decode.SkipDecoding()}
            source = self._sources[split] = self._open().as_data_source(_SPLITS[split], decoders=as_stored)
        example = source[index]
        return {"id": example["name"].decode(), "image": example["image"], "label": int(example["label"])}

    def raw_files(self) -> Iterator[str]:
        """Yields the paths of the TFDS files; none if the dataset is missing."""
        folder = self._find()
        if folder is not None:
            yield from (str(path) for path in sorted(folder.iterdir()) if path.is_file() and not is_stray(path.name))

    def root(self) -> Path | None:
        """Returns the folder, of those searched, that holds the dataset."""
        folder = self._find()
        return folder and folder.parents[2]

    def _find(self) -> Path | None:
        """Returns the folder of the newest version, if any."""
        for folder in self._folders:
            found = [path.parent for path in folder.glob(f"{_NAME}/{self._set_name}/*.*.*/features.json")]
            if found:
                return max(found, key=lambda path: tfds.core.Version(path.name))
        return None

    def _open(self) -> tfds.core.DatasetBuilder:
        folder = self._find()
        if folder is None:
            searched = " or ".join(map(str, self._folders))
            raise RawDataError(
                f"{TFDS.dataset}: no {self._set_name!r} prepared by TFDS in {searched} "
                f"(--config.data.raw_dir, --config.data.data_dir).\n  Expected in one of them (layout {TFDS.name!r}):\n"
                f"    {TFDS.expected[0]}\n  Source: {TFDS.source}\n"
                f"  {TFDS.without} needs no raw data."
            )
        builder = tfds.builder_from_directory(folder)
        formats = sorted(kind.value for kind in builder.info.available_file_formats())
        if "array_record" not in formats:
            raise RawDataError(
                f"{folder}: stored as {', '.join(formats)}, which cannot be read without TensorFlow. Where TensorFlow "
                f"is installed, convert the dataset with\n  tfds convert_format --dataset_version_dir={folder} "
                f"--out_file_format=array_record\nor prepare it again with\n  tfds build {_NAME}/{self._set_name} "
                "--file_format=array_record --data_dir=FOLDER"
            )
        for split in ("train", "validation"):
            if split not in builder.info.splits:
                raise RawDataError(f"{folder}: no split {split!r}; got {', '.join(builder.info.splits)}.")
        return builder
