"""The base of every data set, and of every dense one: a TFDS builder that needs no TensorFlow."""

import abc
import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from jaxtyping import UInt8
from tqdm import tqdm

_RAW_FINGERPRINT = "raw_fingerprint"  # in the metadata of a prepared set: which raw files it was made from


class RawDataError(FileNotFoundError):
    """The raw release is missing, incomplete, damaged or another one; the message says which file and what would do."""


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


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """What all data sets here share: prepared once, in array_record files, without TensorFlow.

    Subclasses set `VERSION`, and define `features`, `split_sizes`, `examples` and, where there is a raw release,
    `check_raw` and `raw_files`.

    Args:
        data_dir: where prepared data sets live; None is TFDS' default, `~/tensorflow_datasets`.
        raw_dir: where the raw release lies; None once the data set is prepared, or where there is no raw release.
        variant: names everything that changes the prepared arrays, such as "13-288x384-mat"; one folder each.
    """

    # There are no checksums of downloads beside the code; to find that out TFDS would need importlib_resources.
    code_path = None

    def __init_subclass__(cls, **options: Any) -> None:
        # Not in TFDS' registry, which refuses a class that a configuration file defines each time that it is read.
        super().__init_subclass__(skip_registration=True, **options)

    def __init__(self, *, data_dir: str | None, raw_dir: str | None, variant: str):
        self.raw_dir = raw_dir
        config = tfds.core.BuilderConfig(name=variant, version=self.VERSION)
        with _quiet_absl():  # TFDS warns of every configuration made at run time
            super().__init__(data_dir=data_dir, config=config, file_format="array_record")

    @abc.abstractmethod
    def features(self) -> dict[str, Any]:
        """The TFDS features of an example, by name."""

    @abc.abstractmethod
    def split_sizes(self) -> dict[str, int]:
        """Number of examples in "train" and "val"; called after `check_raw`."""

    @abc.abstractmethod
    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        """Yields the examples of a split, in a fixed order, each with a unique "id" (str).

        Arrays have the very shapes and types that are stored.
        """

    def check_raw(self) -> None:
        """Raises `RawDataError` where the raw release is missing or incomplete. Called before anything is written."""

    def raw_files(self) -> dict[str, int]:
        """Names, relative to `raw_dir`, and sizes in bytes of the raw files found; empty without any."""
        return {}

    def prepare(self) -> None:
        """Prepares the data set unless it is prepared already; an interrupted preparation leaves nothing behind.

        Raises:
            RawDataError: see `check_raw`; also where the data set is prepared already, but from other raw files than
                those of `raw_dir`. Files are told apart by their names and sizes.
        """
        if self.is_prepared():
            self._check_same_raw()
            return
        self.check_raw()
        self.info.metadata[_RAW_FINGERPRINT] = self._raw_fingerprint()
        logging.getLogger(__name__).info("Preparing %s in %s", self.name, self.data_dir)
        tfds.disable_progress_bar()  # TFDS' bars know no totals here; ours do
        with contextlib.redirect_stdout(io.StringIO()), _quiet_absl():
            self.download_and_prepare()

    def is_prepared(self) -> bool:
        return bool(self.info.splits)

    def _raw_fingerprint(self) -> str | None:
        files = sorted(self.raw_files().items())
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16] if files else None

    def _check_same_raw(self) -> None:
        if self.raw_dir is None:
            return
        given = self._raw_fingerprint()
        if given is None:
            logging.getLogger(__name__).warning(
                "%s holds no raw %s; using the set prepared before in %s", self.raw_dir, self.name, self.data_dir
            )
        elif given != dict(self.info.metadata.items()).get(_RAW_FINGERPRINT):
            raise RawDataError(
                f"{self.name}: the set in {self.data_dir} was prepared from other files than those in {self.raw_dir} "
                "(their names or sizes differ). Delete the prepared folder to prepare it anew, name another one with "
                "--config.data.data_dir, or leave --config.data.raw_dir out to use the set as it is."
            )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(self.features()),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # keeps the order of `examples`
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager
        return {split: self._generate_examples(split) for split in self.split_sizes()}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        total = self.split_sizes()[split]
        seconds = 0.1 if sys.stderr.isatty() else 10  # a log file needs no line every moment
        bar = tqdm(self.examples(split), f"{self.name} {split}", total, unit="image", mininterval=seconds)
        yield from enumerate(map(self._checked, bar))

    def _checked(self, example: dict[str, Any]) -> dict[str, Any]:
        """The example, if it is what is declared."""
        return example


class DenseBuilder(Builder):
    """Images with targets of the same height and width, such as a class map, a depth map and surface normals.

    A prepared example is `{"id": bytes, "image": uint8 or float32 [h, w, 3], target: array, "labelled": {target:
    bool}}`, stored in array_record files, with the targets that `targets` names. A target for which `labelled` is False
    holds only undefined pixels.

    Subclasses set `VERSION` and `targets`, and define `data_info`, `split_sizes`, `examples` and, where there is a raw
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

    def _checked(self, example: dict[str, Any]) -> dict[str, Any]:
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
