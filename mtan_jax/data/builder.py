"""The base of every data set, and of every dense one: a TFDS builder that needs no TensorFlow."""

import abc
import contextlib
import dataclasses
import functools
import logging
import math
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from jaxtyping import UInt8

from mtan_jax.data.errors import RawDataError
from mtan_jax.data.preparation import fingerprint, prepare
from mtan_jax.runtime import home


@dataclasses.dataclass(frozen=True, eq=False)
class DataInfo:
    """What tasks, figures and metrics need to know of a data set.

    Attributes:
        name: of the data set, as in `config.data.name`.
        image_size: height and width in pixels.
        classes: names of the semantic classes; the class map holds their positions, -1 where void.
        palette: a colour a class, for pictures.
        inverse_depth: whether the depth target is an inverse depth (larger is nearer).
        depth_unit: unit of the depth target as printed in figures, such as "m" or "1/m".
    """

    name: str
    image_size: tuple[int, int]
    classes: tuple[str, ...]
    palette: UInt8[np.ndarray, "classes 3"]
    inverse_depth: bool
    depth_unit: str


@dataclasses.dataclass(frozen=True)
class Target:
    """What a prepared data set stores of one target.

    Attributes:
        channels: of a map of numbers [h, w, channels], 0 over all channels where undefined; None for a map of classes
            [h, w], -1 where undefined.
        dtype: floating for numbers, signed integers for classes.

    Raises:
        ValueError: `channels` and `dtype` do not fit.
    """

    channels: int | None
    dtype: Any

    def __post_init__(self) -> None:
        kind = np.dtype(self.dtype).kind
        if not (kind == "i" if self.channels is None else kind == "f" and self.channels >= 1):
            raise ValueError(
                f"Target(channels={self.channels}, dtype={np.dtype(self.dtype)}): classes are signed integers with "
                "channels=None, such as Target(None, np.int8); numbers are floating with 1 channel or more, such as "
                "Target(1, np.float32)"
            )


# The targets that are known by name: to augmentation, to figures and to the tasks of `mtan_jax.tasks`.
TARGETS = {"semantic": Target(None, np.int8), "depth": Target(1, np.float32), "normal": Target(3, np.float32)}


class Builder(tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]
    """What all datasets here share: prepared once, in sharded array_record files, without TensorFlow.

    Subclasses set `VERSION`, and define `features`, `split_sizes`, `example`, `example_bytes` and, where there is a raw
    release, `check_raw`, `raw_files` and `close_raw`. Each process that makes examples has a builder of its own, made
    with the same arguments.

    Args:
        data_dir: where prepared datasets live; None is TFDS' default, `~/tensorflow_datasets`.
        raw_dir: where the raw release lies; None once the dataset is prepared, or where there is no raw release.
        variant: names everything that changes the prepared arrays, such as "13-288x384-mat"; one folder each.
    """

    # There are no checksums of downloads beside the code; to find that out TFDS would need importlib_resources.
    code_path = None
    # The most examples of a shard, where examples are small but slow to make; else its size in bytes alone counts.
    max_shard_examples: int | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        # Not in TFDS' registry, which refuses a class that a configuration file defines each time that it is read.
        super().__init_subclass__(skip_registration=True, **options)

    def __new__(cls, *arguments: Any, **named: Any) -> "Builder":
        builder = super().__new__(cls)
        builder._arguments = arguments, named
        return builder

    def __init__(self, *, data_dir: str | None, raw_dir: str | None, variant: str):
        self.raw_dir = None if raw_dir is None else str(pathlib.Path(raw_dir))  # as `raw_files` begins
        config = tfds.core.BuilderConfig(name=variant, version=self.VERSION)
        with _quiet_absl():  # TFDS warns of every configuration made at run time
            super().__init__(data_dir=data_dir or home.data_dir(), config=config, file_format="array_record")
        self._read_stamp = self.stamp()

    def __reduce__(self) -> tuple[Any, ...]:
        arguments, named = self._arguments
        return functools.partial(type(self), **named), arguments

    @abc.abstractmethod
    def features(self) -> dict[str, Any]:
        """The TFDS features of an example, by name."""

    @abc.abstractmethod
    def split_sizes(self) -> dict[str, int]:
        """Number of examples in "train" and "val"; called after `check_raw`."""

    @abc.abstractmethod
    def example(self, split: str, index: int) -> dict[str, Any]:
        """An example of a split, with a unique "id" (str). Arrays have the very shapes and types that are stored.

        The same for the same arguments, in whichever process: shards are made in several, in any order.
        """

    @abc.abstractmethod
    def example_bytes(self) -> int:
        """About how many bytes an example takes; it decides how many go into a file."""

    def check_raw(self) -> None:
        """Raises `RawDataError` where the raw release is missing or incomplete. Called before anything is written."""

    def raw_files(self) -> Iterable[str]:
        """Paths of the raw files, in a fixed order; none without a raw release, or where it is not there."""
        return ()

    def close_raw(self) -> None:
        """Closes the raw files that `example` leaves open for the next example."""

    def summarize(self, split: str, example: dict[str, Any]) -> np.ndarray | None:
        """Numbers of an example that are added up over all examples, for `metadata`; None: nothing."""

    def metadata(self, summary: np.ndarray | None) -> dict[str, Any]:
        """What is kept in the metadata of the prepared dataset. `summary` is the sum of what `summarize` gave."""
        return {}

    def prepare(self, *, workers: int | None = None, again: bool = False) -> None:
        """Prepares the dataset unless it is prepared already; continues a preparation that was interrupted.

        Args:
            workers: processes that make examples; None is one per core.
            again: whether it is prepared in any case, in place of what is there.

        Raises:
            RawDataError: see `check_raw`; also where the dataset is prepared already, but from other raw files than
                those of `raw_dir`, or the files have changed since: names, sizes, times, or a sample of their content.
        """
        with _quiet_absl():
            if not self.is_prepared() or again:
                prepare.prepare(self, workers=workers, again=again)
            else:
                self.check_same_raw()

    def download_and_prepare(self, **options: Any) -> None:
        """TFDS' name for `prepare`; nothing is downloaded."""
        self.prepare()

    def is_prepared(self) -> bool:
        return bool(self.info.splits)

    def stamp(self) -> int | None:
        """Differs between two preparations of this dataset; None before the first."""
        return prepare.stamp(pathlib.Path(self.data_dir))

    def reload(self) -> bool:
        """Reads what is prepared by now; returns whether anything is."""
        self._read_stamp = self.stamp()
        if (pathlib.Path(self.data_dir) / "dataset_info.json").exists():
            self.info.read_from_directory(self.data_dir)
        return self.is_prepared()

    def as_data_source(self, *arguments: Any, **options: Any) -> Any:
        """See TFDS.

        Raises:
            RawDataError: the dataset was prepared again, or removed, since this process looked at it.
        """
        if self.stamp() != self._read_stamp:
            raise RawDataError(
                f"{self.name}: the dataset in {self.data_dir} was replaced or removed while this run used it, such as "
                "by --config.data.prepare=again in another one. To use what is there now, start this run again."
            )
        return super().as_data_source(*arguments, **options)

    def new_info(self) -> tfds.core.DatasetInfo:
        """What TFDS knows of a dataset, before it is prepared."""
        info = self._info()
        info.set_file_format("array_record")
        return info

    def check_same_raw(self) -> None:
        """Raises `RawDataError` where the dataset was prepared from other raw files than those of `raw_dir` now."""
        if self.raw_dir is None:
            return
        folder = pathlib.Path(self.data_dir)
        before, now = prepare.raw_digest(folder), fingerprint.fingerprint(self.raw_files(), self.raw_dir)
        if now is None and before is not None:
            logging.getLogger(__name__).warning(
                "%s holds no raw %s; using the dataset prepared before in %s", self.raw_dir, self.name, folder
            )
        elif now != before:
            changes = fingerprint.changes(self.raw_files(), self.raw_dir, folder / fingerprint.MANIFEST)
            raise RawDataError(
                f"{self.name}: the dataset in {folder} was prepared from other files than those in {self.raw_dir} "
                f"({changes}). To prepare it again: --config.data.prepare=again. To use it as it is: leave "
                "--config.data.raw_dir out. To keep both: --config.data.data_dir=ANOTHER_FOLDER."
            )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(self.features()),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # the order of the examples is that of their indices
        )

    def _download_and_prepare(self, *arguments: Any, **options: Any) -> None:
        raise NotImplementedError("Builder.prepare does this")

    def checked(self, example: dict[str, Any]) -> dict[str, Any]:
        """The example as it is stored, if it is what is declared."""
        return example


class DenseBuilder(Builder):
    """Images with targets of the same height and width, such as a class map, a depth map and surface normals.

    A prepared example is `{"id": bytes, "image": uint8 or float32 [h, w, 3], target: array, "labelled": {target:
    bool}}`, stored in array_record files, with the targets that `targets` names. A target for which `labelled` is False
    holds only undefined pixels.

    Subclasses set `VERSION` and `targets`, and define `data_info`, `split_sizes`, `example` and, where there is a raw
    release, `check_raw` and `raw_files`.

    Args:
        data_dir: see `Builder`.
        raw_dir: see there.
        variant: see there.
    """

    targets: ClassVar[dict[str, Target]] = TARGETS  # those that every example has, by name
    image_dtype: Any = np.uint8

    @property
    @abc.abstractmethod
    def data_info(self) -> DataInfo:
        """What the data set is, known before it is prepared."""

    def features(self) -> dict[str, Any]:
        return {
            "id": tfds.features.Text(),
            "labelled": {name: tfds.features.Scalar(dtype=np.bool_) for name in self.targets},
            # With the default encoding TFDS writes lists of numbers: 30 times slower to prepare.
            **{
                name: tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")
                for name, (shape, dtype) in self._arrays().items()
            },
        }

    def _arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of each array of an example."""
        size = tuple(self.data_info.image_size)
        targets = {
            name: (size if target.channels is None else (*size, target.channels), np.dtype(target.dtype))
            for name, target in self.targets.items()
        }
        return {"image": ((*size, 3), np.dtype(self.image_dtype)), **targets}

    def example_bytes(self) -> int:
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self._arrays().values())

    def checked(self, example: dict[str, Any]) -> dict[str, Any]:
        """The example, if it is what is declared; TFDS' own errors print all its arrays and little else."""
        where, declared = f"{self.name}: the example {example.get('id')!r}", self._arrays()
        arrays, labelled = example.keys() - {"id", "labelled"}, example.get("labelled", {}).keys()
        if arrays != declared.keys() or labelled != self.targets.keys():
            raise ValueError(
                f"{where} has the arrays {', '.join(sorted(arrays))} and `labelled` for {', '.join(sorted(labelled))}; "
                f"{type(self).__name__}.targets asks for {', '.join(self.targets)} in both, besides the image"
            )
        for name, (shape, dtype) in declared.items():
            array = np.asarray(example[name])
            if (array.shape, array.dtype) != (shape, dtype):
                raise ValueError(f"{where}: {name} is {array.dtype} {array.shape}; declared is {dtype} {shape}")
        return example


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    level = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(level)
