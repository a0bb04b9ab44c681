"""Sets of Visual Decathlon as TFDS prepares them: `visual_domain_decathlon/SET/VERSION`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from mtan_jax.data.decathlon.layouts import TFDS
from mtan_jax.data.errors import RawDataError
from mtan_jax.data.raw.image_files import is_stray

_NAME = "visual_domain_decathlon"
_SPLITS = {"train": "train", "val": "validation", "test": "test"}  # our names and theirs


class TfdsSet:
    """Reads a set that was prepared with TFDS' own builder, without TensorFlow.

    TFDS keeps neither names of classes (they are "0", "1", ... here) nor ids of the challenge.

    Args:
        folders: where prepared sets are looked for, in this order.
        set_name: one of the ten.
    """

    def __init__(self, folders: Sequence[Path], set_name: str):
        self._folders = tuple(folders)
        self._set_name = set_name
        self._sources: dict[str, Sequence[dict[str, Any]]] = {}  # the opened splits

    def check(self) -> None:
        """Raises RawDataError unless the set is there, in array_record files, with "train" and "validation"."""
        self._sources.clear()
        self._open()

    def class_names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self._open().info.features["label"].num_classes)))

    def metadata(self) -> dict[str, Any]:
        return {}

    def split_sizes(self) -> dict[str, int]:
        splits = self._open().info.splits
        return {ours: splits[theirs].num_examples for ours, theirs in _SPLITS.items() if theirs in splits}

    def example(self, split: str, index: int) -> dict[str, Any]:
        """The example `index` of a split; "image" is the bytes of the file, the id is the file's name there."""
        source = self._sources.get(split)
        if source is None:
            as_stored = {"image": tfds.decode.SkipDecoding()}
            source = self._sources[split] = self._open().as_data_source(_SPLITS[split], decoders=as_stored)
        example = source[index]
        return {"id": example["name"].decode(), "image": example["image"], "label": int(example["label"])}

    def raw_files(self) -> Iterator[str]:
        """Yields the paths of the files of TFDS; none where the set is not there."""
        folder = self._find()
        if folder is not None:
            yield from (str(path) for path in sorted(folder.iterdir()) if path.is_file() and not is_stray(path.name))

    def root(self) -> Path | None:
        """The one of the folders that holds the set."""
        folder = self._find()
        return folder and folder.parents[2]

    def _find(self) -> Path | None:
        """The folder of the newest version, if there is one."""
        for folder in self._folders:
            found = [path.parent for path in folder.glob(f"{_NAME}/{self._set_name}/*.*.*/features.json")]
            if found:
                return max(found, key=lambda path: tfds.core.Version(path.name))
        return None

    def _open(self) -> tfds.core.DatasetBuilder:
        folder = self._find()
        if folder is None:
            places = " or ".join(map(str, self._folders))
            raise RawDataError(
                f"{TFDS.dataset}: there is no copy of {self._set_name!r} by TFDS in {places} "
                f"(--config.data.raw_dir, --config.data.data_dir).\n  Expected there (layout {TFDS.name!r}):\n    "
                f"{TFDS.expected[0]}\n  Source: {TFDS.source}\n"
                f"  {TFDS.without} needs no raw data."
            )
        builder = tfds.builder_from_directory(folder)
        formats = sorted(kind.value for kind in builder.info.available_file_formats())
        if "array_record" not in formats:
            raise RawDataError(
                f"{folder}: prepared as {', '.join(formats)}, which cannot be read without TensorFlow. Where it is "
                f"installed, convert the set with\n  tfds convert_format --dataset_version_dir={folder} "
                f"--out_file_format=array_record\nor prepare it anew with\n  tfds build {_NAME}/{self._set_name} "
                "--file_format=array_record --data_dir=FOLDER"
            )
        for split in ("train", "validation"):
            if split not in builder.info.splits:
                raise RawDataError(f"{folder}: no split {split!r}; there are: {', '.join(builder.info.splits)}.")
        return builder
