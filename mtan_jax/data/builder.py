"""The base class of dense datasets: images with per-pixel targets."""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from numpy.typing import DTypeLike

from mtan_jax.data.base_builder import Builder
from mtan_jax.data.preparation.preparable import StoredExample


@dataclasses.dataclass(frozen=True, eq=False)
class DataInfo:
    """Properties of a dense dataset that tasks, figures and metrics depend on.

    Attributes:
        name: of the dataset, as in `config.data.name`.
        image_size: height and width in pixels.
        classes: names of the semantic classes; the class map holds their indices, -1 where void.
        palette: one color per class, for pictures.
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
    """The stored form of one target.

    Attributes:
        channels: number of channels of a continuous map [h, w, channels], 0 over all channels where undefined; None for
            a class map [h, w], -1 where undefined.
        dtype: floating-point for continuous maps, signed integer for class maps.

    Raises:
        ValueError: `channels` and `dtype` do not match.
    """

    channels: int | None
    dtype: DTypeLike

    def __post_init__(self) -> None:
        kind = np.dtype(self.dtype).kind
        if not (kind == "i" if self.channels is None else kind == "f" and self.channels >= 1):
            raise ValueError(
                f"Target(channels={self.channels}, dtype={np.dtype(self.dtype)}): class maps are signed integers with "
                "channels=None, such as Target(None, np.int8); continuous maps are floating-point with 1 channel or "
                "more, such as Target(1, np.float32)"
            )


# Targets that augmentation, figures and the tasks of `mtan_jax.tasks` recognize by name.
TARGETS = {"semantic": Target(None, np.int8), "depth": Target(1, np.float32), "normal": Target(3, np.float32)}


class DenseBuilder(Builder):
    """A dataset of images with targets of the same height and width: class maps, depth, surface normals and so on.

    A prepared example is `{"id": bytes, "image": uint8 or float32 [h, w, 3], target: array, "labelled": {target:
    bool}}`, with the targets named in `targets`. If `labelled` is False for a target, all its pixels are undefined.

    Subclasses set `VERSION` and `targets`, and define `data_info`, `split_sizes`, `example` and, if there is a raw
    release, `raw_files` and optionally `check_raw`. Register a subclass by name in `mtan_jax.data.DATASETS`.

    Args:
        data_dir: as in `Builder`.
        raw_dir: as in `Builder`.
        variant: as in `Builder`.
    """

    targets: ClassVar[dict[str, Target]] = TARGETS  # of every example, by name
    image_dtype: DTypeLike = np.uint8

    @property
    @abc.abstractmethod
    def data_info(self) -> DataInfo:
        """Properties of the dataset, known before it is prepared."""

    def features(self) -> Mapping[str, tfds.features.FeatureConnector]:
        return {
            "id": tfds.features.Text(),
            "labelled": {name: tfds.features.Scalar(dtype=np.bool_) for name in self.targets},
            # TFDS' default encoding writes lists of numbers, which is 30 times slower to prepare.
            **{
                name: tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")
                for name, (shape, dtype) in self._arrays().items()
            },
        }

    def example_bytes(self) -> int:
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self._arrays().values())

    def checked(self, example: StoredExample) -> StoredExample:
        """Checks names, shapes and dtypes; TFDS' own errors print whole arrays."""
        where, declared = f"{self.name}: the example {example.get('id')!r}", self._arrays()
        arrays, labelled = example.keys() - {"id", "labelled"}, example.get("labelled", {}).keys()
        if arrays != declared.keys() or labelled != self.targets.keys():
            raise ValueError(
                f"{where} has the arrays {', '.join(sorted(arrays))} and `labelled` for {', '.join(sorted(labelled))}; "
                f"{type(self).__name__}.targets declares {', '.join(self.targets)} for both, besides the image"
            )
        for name, (shape, dtype) in declared.items():
            array = np.asarray(example[name])
            if (array.shape, array.dtype) != (shape, dtype):
                raise ValueError(f"{where}: {name} is {array.dtype} {array.shape}; declared as {dtype} {shape}")
        return example

    def _arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """The shape and dtype of each array of an example."""
        size = tuple(self.data_info.image_size)
        targets = {
            name: (size if target.channels is None else (*size, target.channels), np.dtype(target.dtype))
            for name, target in self.targets.items()
        }
        return {"image": ((*size, 3), np.dtype(self.image_dtype)), **targets}
