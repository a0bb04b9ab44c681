"""Shards: the files of a prepared dataset, each written atomically."""

import contextlib
import functools
import hashlib
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from mtan_jax.data.errors import RawDataError, UnreadableError
from mtan_jax.data.preparation.preparable import Preparable

SHARD_BYTES = 64 * 2**20  # approximate size of a shard
UNFINISHED = "unfinished."  # prefix of files that are being written
MAX_FAULTS = 20  # unreadable examples after which a preparation stops
SUMMARY = "summary.npy"  # suffix of files next to the folder with the sum of `Builder.summarize` over each shard


class Shard(NamedTuple):
    """Examples `start` to `stop - 1` of a split, in the file `name`."""

    split: str
    start: int
    stop: int
    name: str


def plan_shards(builder: Preparable, sizes: dict[str, int]) -> list[Shard]:
    """Divides the splits into shards of about `SHARD_BYTES`; deterministic for the same raw data.

    Args:
        builder: of the dataset.
        sizes: number of examples of each split.
    """
    max_examples = max(SHARD_BYTES // max(builder.example_bytes(), 1), 1)
    if builder.max_shard_examples is not None:
        max_examples = min(max_examples, builder.max_shard_examples)
    shards = []
    for split, size in sizes.items():
        if size < 1:
            raise RawDataError(f"{builder.name}: the split {split!r} has no examples; at least 1 is needed")
        count = -(-size // max_examples)
        template = file_template(builder, split)
        bounds = [size * i // count for i in range(count + 1)]
        for i in range(count):
            path = template.sharded_filepath(shard_index=i, num_shards=count)
            shards.append(Shard(split, bounds[i], bounds[i + 1], path.name))
    return shards


def file_template(builder: Preparable, split: str) -> tfds.core.ShardedFileTemplate:
    """The template by which TFDS names the files of a split."""
    return tfds.core.ShardedFileTemplate(
        data_dir=builder.data_path, dataset_name=builder.name, split=split, filetype_suffix="array_record"
    )


def write_shard(builder: Preparable, shard: Shard, folder: Path, written: Callable[[], None]) -> None:
    """Writes a shard, under a temporary name until it is complete.

    Args:
        builder: of the dataset.
        shard: the shard to write.
        folder: the folder to write it to.
        written: called after each example.

    Raises:
        UnreadableError: raw files are damaged or missing; lists up to `MAX_FAULTS` examples.
    """
    serializer = ExampleSerializer(builder.info.features.get_serialized_info())
    summary: np.ndarray | None = None
    faults: list[str] = []
    unfinished = folder / f"{UNFINISHED}{os.getpid()}.{shard.name}"
    try:
        with _writer(unfinished) as write:
            for index in range(shard.start, shard.stop):
                try:
                    example = builder.checked(builder.example(shard.split, index))
                except RawDataError as error:
                    faults.append(str(error))
                    if len(faults) >= MAX_FAULTS:
                        break
                    continue
                if (part := builder.summarize(shard.split, example)) is not None:
                    summary = part if summary is None else summary + part
                message = serializer.get_tf_example(builder.info.features.encode_example(example))
                write(
                    message.SerializeToString(deterministic=True)
                )  # otherwise the order of features varies by process
                written()
        if faults:
            raise UnreadableError(faults)
        if summary is not None:
            np.save(_summary_path(shard.name, folder), summary, allow_pickle=False)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())  # otherwise a power failure could leave an empty file under the final name
        os.replace(unfinished, folder / shard.name)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _writer(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yields a function that writes a record; errors of the library become an OSError that names the folder."""

    def checked(function: Callable[..., None], *arguments: bytes) -> None:
        try:
            function(*arguments)
        except RuntimeError as error:
            raise OSError(
                f"{path.parent}: cannot be written ({error}). If the disk is full, make room and run the same command "
                "again, or prepare the dataset elsewhere with --config.data.data_dir=FOLDER."
            ) from error

    writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
    try:
        yield functools.partial(checked, writer.write)
    except BaseException:
        with contextlib.suppress(RuntimeError):
            writer.close()
        raise
    checked(writer.close)


def missing(shards: Sequence[Shard], folder: Path) -> list[Shard]:
    """The shards that are incomplete, or lack a summary although others of their split have one."""
    summed = {shard.split for shard in shards if _summary_path(shard.name, folder).exists()}
    return [
        shard
        for shard in shards
        if _num_examples(folder / shard.name) != shard.stop - shard.start
        or (shard.split in summed and not _summary_path(shard.name, folder).exists())
    ]


def _num_examples(path: Path) -> int:
    """The number of examples in a file; 0 if it is damaged or missing."""
    if not path.exists():
        return 0
    try:
        reader = ArrayRecordReader(os.fspath(path))
        try:
            return reader.num_records()
        finally:
            reader.close()
    except (RuntimeError, ValueError):
        return 0


def add_summaries(shards: Sequence[Shard], folder: Path) -> np.ndarray | None:
    """The sum of `Builder.summarize` over all examples; None if it always returned None."""
    total: np.ndarray | None = None
    for shard in shards:
        path = _summary_path(shard.name, folder)
        if path.exists():
            part = np.load(path, allow_pickle=False)
            total = part if total is None else total + part
    return total


def remove_summaries(folder: Path) -> None:
    """Removes the files that `add_summaries` reads."""
    for path in folder.parent.glob(_summary_path("*", folder).name):
        path.unlink()


def _summary_path(shard: str, folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{shard}.{SUMMARY}")


def code_digest(builder: Preparable) -> str:
    """Computes a digest of the code that makes examples: `mtan_jax.data` and the files that define the builder."""
    files = set(Path(__file__).parents[1].rglob("*.py"))
    for cls in type(builder).__mro__:
        if not cls.__module__.startswith("tensorflow_datasets"):
            functions = filter(inspect.isfunction, vars(cls).values())
            files |= {Path(function.__code__.co_filename) for function in functions}
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(filter(Path.is_file, files)):
        digest.update(path.read_bytes())
    return digest.hexdigest()
