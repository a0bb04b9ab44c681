"""The base of every dense data set: a TFDS builder that needs no TensorFlow."""

import abc
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

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


class DenseBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Images with a class map, a depth map and surface normals, as array_record files.

    A prepared example is `{"id": bytes, "image": uint8 or float32 [h, w, 3], "semantic": int8 [h, w], "depth":
    float32 [h, w, 1], "normal": floating [h, w, 3], "labelled": {target: bool}}` with the undefined pixels of the batch
    contract: -1 in the class map, 0 over all channels in depth and normals. A target for which `labelled` is False
    holds only such pixels. A data set without some target leaves it out of `targets`.

    Subclasses set `VERSION` and `targets`, and define `data_info`, `split_sizes`, `examples` and, where there is a raw
    release, `check_raw` and `raw_files`.

    Args:
        data_dir: where prepared data sets live; None is TFDS' default, `~/tensorflow_datasets`.
        raw_dir: where the raw release lies; None once the data set is prepared, or where there is no raw release.
        variant: names everything that changes the prepared arrays, such as "13-288x384-mat"; one folder each.
    """

    targets: tuple[str, ...] = ("semantic", "depth", "normal")
    image_dtype: Any = np.uint8
    normal_dtype: Any = np.float32
    # There are no checksums of downloads beside the code; to find that out TFDS would need importlib_resources.
    code_path = None

    def __init__(self, *, data_dir: str | None, raw_dir: str | None, variant: str):
        self.raw_dir = raw_dir
        config = tfds.core.BuilderConfig(name=variant, version=self.VERSION)
        with _quiet_absl():  # TFDS warns of every configuration made at run time
            super().__init__(data_dir=data_dir, config=config, file_format="array_record")

    @property
    @abc.abstractmethod
    def data_info(self) -> DataInfo:
        """What the data set is, known before it is prepared."""

    @abc.abstractmethod
    def split_sizes(self) -> dict[str, int]:
        """Number of examples in "train" and "val"; called after `check_raw`."""

    @abc.abstractmethod
    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        """Yields the examples of a split, in a fixed order, each with a unique "id" (str)."""

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
        height, width = self.data_info.image_size
        # With the default encoding TFDS writes lists of numbers: 30 times slower to prepare.
        tensor = functools.partial(tfds.features.Tensor, encoding="bytes")
        kinds = {
            "semantic": tensor(shape=(height, width), dtype=np.int8),
            "depth": tensor(shape=(height, width, 1), dtype=np.float32),
            "normal": tensor(shape=(height, width, 3), dtype=self.normal_dtype),
        }
        features = {
            "id": tfds.features.Text(),
            "image": tensor(shape=(height, width, 3), dtype=self.image_dtype),
            "labelled": {name: tfds.features.Scalar(dtype=np.bool_) for name in self.targets},
            **{name: kinds[name] for name in self.targets},
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
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
        yield from enumerate(bar)


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    level = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(level)
