"""Base classes of image classification datasets: one set of labelled images per task."""

import abc
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, TypeAlias, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float

from mtan_jax.data.base_builder import Builder
from mtan_jax.data.errors import RawDataError
from mtan_jax.data.preparation.preparable import StoredExample
from mtan_jax.data.raw.image_files import printable, read_stored, storable

Colour: TypeAlias = tuple[float, float, float]
T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_RESERVED = ("attention", "backbone", "mean")  # parts of the network, and the mean over the sets in the metrics

_SIZE_SAMPLE = 64  # pictures from which the mean size of a set's pictures is estimated


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Properties of a set that tasks, augmentation and figures depend on.

    Attributes:
        name: of the set, and of its task.
        classes: their names; a label is an index into them.
        mean: mean of each channel over the images of "train", in 0..1.
        std: standard deviation of each channel.
        flip: whether a mirrored image keeps its class.
    """

    name: str
    classes: tuple[str, ...]
    mean: Colour
    std: Colour
    flip: bool


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSetsInfo:
    """Properties of several sets that the rest of the program depends on.

    Attributes:
        name: of the dataset, as in `config.data.name`.
        image_size: height and width in pixels to which images are resized and cropped.
        sets: by name, in the order of the tasks. Means are known once the sets are prepared.
    """

    name: str
    image_size: tuple[int, int]
    sets: Mapping[str, ImageSet]


class ImageSetBuilder(Builder):
    """One set of labelled images of arbitrary sizes.

    A prepared example is `{"id": bytes, "image": an encoded picture, "label": int}`; the label is -1 where unknown.
    Class names and channel statistics are stored in the set's metadata.

    Subclasses set `VERSION` and `name`, and define `class_names`, `split_sizes`, `example` and, if there is a raw
    release, `check_raw` and `raw_files`. The "image" of an example is the path or the bytes of a picture file. It is
    stored as `mtan_jax.data.raw.image_files.storable` converts it: a JPEG or PNG file that all decoders read to the
    same pixels.

    Args:
        set_name: of the set.
        data_dir: as in `Builder`.
        raw_dir: as in `Builder`.
        variant: as in `Builder`; begins with the set's name.
    """

    flip = True  # whether a mirrored image keeps its class

    def __init__(self, *, set_name: str, data_dir: str | None, raw_dir: str | None, variant: str):
        self.set_name = set_name
        super().__init__(data_dir=data_dir, raw_dir=raw_dir, variant=variant)

    @abc.abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of the labels, from the raw release. Not called once the set is prepared."""

    def known_statistics(self) -> tuple[Colour, Colour] | None:
        """The published mean and standard deviation of each channel; None if they are computed from "train"."""
        return None

    def extra_metadata(self) -> dict[str, object]:
        """Further metadata from the raw release, stored with the set; called after `check_raw`."""
        return {}

    @property
    def image_set(self) -> ImageSet:
        """Properties of the set; mean 0 and standard deviation 1 until it is prepared."""
        metadata = dict(self.info.metadata.items()) if self.is_prepared() else {}
        classes = metadata.get("classes") or self.class_names()
        mean, std = metadata.get("mean") or (0.0,) * 3, metadata.get("std") or (1.0,) * 3
        return ImageSet(self.set_name, tuple(classes), tuple(mean), tuple(std), self.flip)

    def features(self) -> Mapping[str, tfds.features.FeatureConnector]:
        return {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.Scalar(dtype=np.int32),
        }

    def example_bytes(self) -> int:
        sizes = self.split_sizes()
        split = max(sizes, key=lambda name: sizes[name])
        if not sizes[split]:
            return 1
        sample = range(0, sizes[split], max(sizes[split] // _SIZE_SAMPLE, 1))
        pictures = [self.example(split, index)["image"] for index in sample]
        lengths = [len(picture) if isinstance(picture, bytes) else os.path.getsize(picture) for picture in pictures]
        return sum(lengths) // len(lengths)

    def summarize(self, split: str, example: StoredExample) -> Float[np.ndarray, "3 3"] | None:
        """Pixel count, sum and sum of squares per channel, if the statistics are not published."""
        if split != "train" or self.known_statistics():
            return None
        pixels = read_stored(example["image"], example["id"]).reshape(-1, 3) / 255.0
        return np.stack([np.full(3, len(pixels)), pixels.sum(axis=0), np.square(pixels).sum(axis=0)])

    def metadata(self, summary: np.ndarray | None) -> dict[str, object]:
        known = self.known_statistics()
        if known is not None:
            mean, std = known
        elif summary is not None:
            mean, std = channel_statistics(summary)
        else:
            folder = pathlib.Path(self.data_dir)
            raise RawDataError(
                f"{self.name}: the channel statistics (files next to {folder}) are missing; delete "
                f"{folder.with_name(f'incomplete.{folder.name}')} and prepare the set again"
            )
        return {"classes": list(self.class_names()), "mean": list(mean), "std": list(std), **self.extra_metadata()}

    def checked(self, example: StoredExample) -> StoredExample:
        """Returns the example with its picture as it will be stored.

        Raises:
            RawDataError: the picture cannot be read.
        """
        name = printable(example["id"])
        return example | {"id": name, "image": storable(example["image"], name)}


def channel_statistics(summary: Float[np.ndarray, "3 3"]) -> tuple[Colour, Colour]:
    """Mean and standard deviation of each channel over all pixels, in 0..1.

    Args:
        summary: the sum of the results of `ImageSetBuilder.summarize`.
    """
    count, total, squares = summary
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 1e-12))
    return tuple(mean.tolist()), tuple(std.tolist())


class ImageSets:
    """Several sets as one dataset; each is prepared and stored separately.

    The constructors of subclasses take `data_dir`, `raw_dir`, `datasets` (the sets, in the order of the tasks) and
    options of their own. Subclasses set `name` and `known_sets`.

    Args:
        builders: of the sets.
        image_size: height and width in pixels to which images are resized and cropped.

    Raises:
        ValueError: a set has an invalid name.
    """

    name: str
    known_sets: ClassVar[tuple[str, ...]] = ()  # names of all sets, whether chosen or not

    def __init__(self, builders: Sequence[ImageSetBuilder], image_size: tuple[int, int]):
        self.builders = {builder.set_name: builder for builder in builders}
        for name in self.builders:
            if name in _RESERVED or not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} is not a valid name of a set; use letters, digits, '-' and '_', and none of "
                    f"{', '.join(_RESERVED)}"
                )
        self.image_size = image_size

    @property
    def data_info(self) -> ImageSetsInfo:
        """Properties of the sets."""
        return ImageSetsInfo(self.name, self.image_size, self._for_each(lambda builder: builder.image_set))

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the sets; each set is the target of one task."""
        return tuple(self.builders)

    def prepare(self, *, workers: int | None = None, again: bool = False) -> None:
        """Prepares the sets that are not prepared; arguments and errors as in `Builder.prepare`."""
        self._for_each(lambda builder: builder.prepare(workers=workers, again=again))

    def is_prepared(self) -> bool:
        """Whether all sets are prepared."""
        return all(builder.is_prepared() for builder in self.builders.values())

    @property
    def root(self) -> pathlib.Path:
        """The folder of prepared datasets, the same for all sets."""
        return next(iter(self.builders.values())).root

    def stamp(self) -> tuple[int | None, ...]:
        """The stamp of each set; see `Builder.stamp`."""
        return tuple(builder.stamp() for builder in self.builders.values())

    def _for_each(self, function: Callable[[ImageSetBuilder], T]) -> dict[str, T]:
        """Calls a function of each builder; if several sets have no raw release, the error lists them all."""
        results = {}
        for name, builder in self.builders.items():
            try:
                results[name] = function(builder)
            except RawDataError as error:
                missing = [key for key, each in self.builders.items() if not (each.raw_dir or each.is_prepared())]
                if name not in missing or len(missing) == 1:
                    raise
                raise RawDataError(f"{error}\n  Sets that are not prepared yet: {', '.join(missing)}.") from error
        return results
