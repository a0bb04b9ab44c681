"""The base class of all datasets: a TFDS builder that needs no TensorFlow."""

import abc
import contextlib
import functools
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging

from mtan_jax.data import bucket_data
from mtan_jax.data.errors import PreparedDataError, RawDataError
from mtan_jax.data.preparation import checksums, fingerprint, prepare
from mtan_jax.data.preparation.preparable import StoredExample
from mtan_jax.data.raw import manual_downloads
from mtan_jax.data.raw.raw_layout import RawLayout
from mtan_jax.runtime import home

log = logging.getLogger(__name__)


class _LocalInfo(tfds.core.DatasetInfo):
    """TFDS' description of a dataset that is in none of TFDS' buckets."""

    def initialize_from_bucket(self) -> None:
        """Does nothing. TFDS' method would leave an empty temporary folder for each builder that is made."""

    def read_from_directory(self, dataset_info_dir: str | os.PathLike[str]) -> None:
        """Reads a prepared folder.

        Raises:
            PreparedDataError: a file of the folder is damaged.
        """
        try:
            checksums.check(pathlib.Path(dataset_info_dir))
            super().read_from_directory(dataset_info_dir)
        except OSError:
            raise
        except Exception as error:  # protobuf and TFDS raise many types
            raise PreparedDataError(
                f"The dataset prepared in {dataset_info_dir} cannot be read: {error}. "
                "Delete this folder and run the same command again: it prepares the dataset again."
            ) from error


class Builder(tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A dataset that is prepared once, in sharded ArrayRecord files, without TensorFlow.

    Subclasses set `VERSION`, and define `features`, `split_sizes`, `example`, `example_bytes` and, if there is a raw
    release, `raw_files` and optionally `check_raw` and `close_raw`. Each process that makes examples has its own
    builder, made with the same arguments.

    Args:
        data_dir: the folder of prepared datasets; None is TFDS' default, `~/tensorflow_datasets`.
        raw_dir: the folder of the raw release; None is `<data_dir>/downloads/manual/NAME`, if that exists. Not needed
            for a prepared dataset, or for one without a raw release.
        variant: a name that encodes everything that changes the prepared arrays, such as "13-288x384-release"; each
            variant has its own folder.
    """

    # TFDS would look for checksums of downloads next to the code, and need importlib_resources to do so.
    code_path = None
    # An upper bound on the examples per shard, for examples that are small but slow to make.
    max_shard_examples: int | None = None
    # The expected layout of the raw release, which the error for a missing one describes.
    raw_layout: RawLayout | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        # TFDS' registry refuses a second class of the same name, and configuration files are read more than once.
        super().__init_subclass__(skip_registration=True, **options)

    def __new__(cls, *arguments: object, **named: object) -> "Builder":
        builder = super().__new__(cls)
        builder._arguments = arguments, named
        return builder

    def __init__(self, *, data_dir: str | None, raw_dir: str | None, variant: str):
        raw = self.find_raw(data_dir, raw_dir)
        self.raw_dir = None if raw is None else str(raw)  # the start of all `raw_files`
        self._manual_folder = manual_downloads.manual_folder(data_dir, self.name)
        config = tfds.core.BuilderConfig(name=variant, version=self.VERSION)
        with _quiet_absl():  # TFDS warns about each configuration made at run time
            super().__init__(data_dir=data_dir or home.data_dir(), config=config, file_format="array_record")
        self._read_stamp = self.stamp()

    def __reduce__(self) -> tuple[Callable[..., "Builder"], tuple[object, ...]]:
        arguments, named = self._arguments
        return functools.partial(type(self), **named), arguments

    @abc.abstractmethod
    def features(self) -> Mapping[str, tfds.features.FeatureConnector]:
        """The TFDS features of an example, by name."""

    @abc.abstractmethod
    def split_sizes(self) -> dict[str, int]:
        """Returns the number of examples in "train" and "val"; called after `check_raw`."""

    @abc.abstractmethod
    def example(self, split: str, index: int) -> StoredExample:
        """Makes an example of a split, with a unique "id" (str) and arrays of the declared shapes and dtypes.

        Must be deterministic, because several processes make the shards, in any order.
        """

    @abc.abstractmethod
    def example_bytes(self) -> int:
        """The approximate size of an example, which determines the number of examples per file."""

    def check_raw(self) -> None:
        """Raises `RawDataError` if the raw release is incomplete. Called before anything is written."""

    def raw_files(self) -> Iterable[str]:
        """Paths of the raw files, in a fixed order; empty without a raw release, or if none of it is present."""
        return ()

    def close_raw(self) -> None:
        """Closes raw files that `example` keeps open between calls."""

    def summarize(self, split: str, example: StoredExample) -> np.ndarray | None:
        """Statistics of an example that are summed over all examples for `metadata`, or None."""

    def metadata(self, summary: np.ndarray | None) -> dict[str, object]:
        """The metadata stored with the prepared dataset. `summary` is the sum of the results of `summarize`."""
        return {}

    def checked(self, example: StoredExample) -> StoredExample:
        """Returns the example as it will be stored.

        Raises:
            ValueError: it does not match its declaration.
        """
        return example

    @classmethod
    def has_raw_release(cls) -> bool:
        """Whether the dataset is made from raw files rather than rendered."""
        return cls.raw_files is not Builder.raw_files

    @classmethod
    def find_raw(cls, data_dir: str | None, raw_dir: str | None) -> pathlib.Path | None:
        """The folder of the raw release: `raw_dir`, or else `<data_dir>/downloads/manual/NAME` if that exists.

        For subclasses whose constructor detects the layout of the raw release.
        """
        if raw_dir is None and not cls.has_raw_release():
            return None
        return manual_downloads.find_raw(data_dir, raw_dir, cls.name)

    def prepare(self, *, workers: int | None = None, again: bool = False) -> None:
        """Prepares the dataset unless it is already prepared; continues an interrupted preparation.

        Args:
            workers: number of processes that make examples; None is one per core.
            again: whether to replace a dataset that is already prepared.

        Raises:
            RawDataError: the raw release is missing or incomplete, or the dataset was prepared from raw files that
                differ from those in `raw_dir` in name, size, modification time or a sample of their content.
        """
        folder = pathlib.Path(self.data_dir)
        with _quiet_absl():
            bucket_data.pull(folder)
            if self.is_prepared() and not again:
                self.check_same_raw()
            elif self.raw_dir is None and self.has_raw_release():
                raise self.no_raw_release()
            else:
                prepare.prepare(self, workers=workers, again=again)
            if bucket_data.push(folder, again=again):
                self.reload()

    def download_and_prepare(self, **options: object) -> None:
        """TFDS' name for `prepare`; downloads nothing."""
        self.prepare()

    def is_prepared(self) -> bool:
        return bool(self.info.splits)

    @property
    def root(self) -> pathlib.Path:
        """The folder of prepared datasets, which contains that of this one."""
        return pathlib.Path(self._data_dir_root)

    def stamp(self) -> int | None:
        """A number that changes with each preparation; None before the first."""
        return prepare.stamp(pathlib.Path(self.data_dir))

    def reload(self) -> bool:
        """Reads the current state from disk; returns whether the dataset is prepared."""
        self._read_stamp = self.stamp()
        if (pathlib.Path(self.data_dir) / "dataset_info.json").exists():
            self.info.read_from_directory(self.data_dir)
        return self.is_prepared()

    def as_data_source(self, *arguments: Any, **options: Any) -> Sequence[StoredExample]:
        """Opens a split for random access; arguments as in TFDS.

        Raises:
            RawDataError: the dataset was prepared again or removed after this builder was made.
        """
        if self.stamp() != self._read_stamp:
            raise RawDataError(
                f"{self.name}: the dataset in {self.data_dir} was replaced or removed while this run used it, for "
                "example by another run with --config.data.prepare=again. Start this run again to use the new one."
            )
        return super().as_data_source(*arguments, **options)

    def new_info(self) -> tfds.core.DatasetInfo:
        """TFDS' description of the dataset before it is prepared."""
        info = self._info()
        info.set_file_format("array_record")
        return info

    def check_same_raw(self) -> None:
        """Raises `RawDataError` if the dataset was prepared from raw files that differ from those in `raw_dir`."""
        if self.raw_dir is None:
            return
        folder = pathlib.Path(self.data_dir)
        before, now = prepare.raw_digest(folder), fingerprint.fingerprint(self.raw_files(), self.raw_dir)
        if now is None and before is not None:
            log.warning("%s holds no raw %s; using the dataset already prepared in %s", self.raw_dir, self.name, folder)
        elif now != before:
            changes = fingerprint.changes(self.raw_files(), self.raw_dir, folder / fingerprint.MANIFEST)
            is_manual = os.path.realpath(self.raw_dir) == os.path.realpath(self._manual_folder)
            ignore_raw = f"move {self.raw_dir} away" if is_manual else "leave --config.data.raw_dir out"
            raise RawDataError(
                f"{self.name}: the dataset in {folder} was prepared from other files than those in {self.raw_dir} "
                f"({changes}). To prepare it again: --config.data.prepare=again. To use it as it is: {ignore_raw}. "
                "To keep both: --config.data.data_dir=ANOTHER_FOLDER."
            )

    def no_raw_release(self) -> RawDataError:
        """The error for a raw release that is required but was not found."""
        dataset = self.raw_layout.dataset if self.raw_layout else self.name
        state = "cannot be prepared again in {}:" if self.is_prepared() else "is not prepared in {}, and"
        problem = (
            f"{dataset} {state.format(self._data_dir_root)} its raw release is neither in config.data.raw_dir (not "
            f"set) nor in {self._manual_folder}. Put it there or name its folder with --config.data.raw_dir=FOLDER."
        )
        return self.raw_layout.not_found(problem) if self.raw_layout else RawDataError(problem)

    def _info(self) -> tfds.core.DatasetInfo:
        return _LocalInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(self.features()),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # examples are stored in the order of their indices
        )

    def _download_and_prepare(self, *arguments: object, **options: object) -> None:
        raise NotImplementedError("Builder.prepare does this")


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    level = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(level)
