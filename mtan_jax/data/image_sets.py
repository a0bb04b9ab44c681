"""Sets of labelled images, each the data of one task: what is stored of a set, and several sets as one data set."""

import abc
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float

from mtan_jax.data.base_builder import Builder
from mtan_jax.data.errors import RawDataError
from mtan_jax.data.raw.image_files import printable, read_stored, storable

Colour = tuple[float, float, float]

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_TAKEN = ("attention", "backbone", "mean")  # parts of the network, and the mean over the sets in the metrics

_WEIGHED = 64  # pictures that tell how large those of a set are


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """What tasks, augmentation and figures need to know of a set.

    Attributes:
        name: of the set, and of its task.
        classes: names; a label is the position of one.
        mean: of each channel over the images of "train", in 0..1.
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
    """What the other parts of the program need to know of several sets.

    Attributes:
        name: of the data set, as in `config.data.name`.
        image_size: height and width in pixels that images are brought to.
        sets: by name, in the order of the tasks. Means are known once the sets are prepared.
    """

    name: str
    image_size: tuple[int, int]
    sets: Mapping[str, ImageSet]


class ImageSetBuilder(Builder):
    """One set of labelled images of any sizes.

    A prepared example is `{"id": bytes, "image": an encoded picture, "label": int}`; the label is -1 where it is
    unknown. Names of classes and statistics of the channels are in the set's metadata.

    Subclasses set `VERSION` and `name`, and define `class_names`, `split_sizes`, `example` and, where there is a raw
    release, `check_raw` and `raw_files`. As "image" an example has the path or the bytes of a picture file; what is
    stored is `mtan_jax.data.raw.image_files.storable` of it: a JPEG or PNG file that any decoder reads to the same
    pixels.

    Args:
        set_name: of the set.
        data_dir: see `Builder`.
        raw_dir: see there.
        variant: see there; begins with the set's name.
    """

    flip = True  # whether a mirrored image keeps its class

    def __init__(self, *, set_name: str, data_dir: str | None, raw_dir: str | None, variant: str):
        self.set_name = set_name
        super().__init__(data_dir=data_dir, raw_dir=raw_dir, variant=variant)

    @abc.abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels, from the raw release. Not called once prepared."""

    def known_statistics(self) -> tuple[Colour, Colour] | None:
        """Mean and standard deviation of each channel where they are published; None: computed from "train"."""
        return None

    def extra_metadata(self) -> dict[str, Any]:
        """What else is kept in the set's metadata, from the raw release; called after `check_raw`."""
        return {}

    @property
    def image_set(self) -> ImageSet:
        """What the set is; means of 0 and standard deviations of 1 stand for unknown ones until it is prepared."""
        kept = dict(self.info.metadata.items()) if self.is_prepared() else {}
        classes = kept.get("classes") or self.class_names()
        mean, std = kept.get("mean") or (0.0,) * 3, kept.get("std") or (1.0,) * 3
        return ImageSet(self.set_name, tuple(classes), tuple(mean), tuple(std), self.flip)

    def features(self) -> dict[str, Any]:
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
        some = range(0, sizes[split], max(sizes[split] // _WEIGHED, 1))
        pictures = [self.example(split, index)["image"] for index in some]
        weights = [len(picture) if isinstance(picture, bytes) else os.path.getsize(picture) for picture in pictures]
        return sum(weights) // len(weights)

    def summarize(self, split: str, example: dict[str, Any]) -> np.ndarray | None:
        """Number of pixels, sums and sums of squares of the channels, where their statistics are not published."""
        if split != "train" or self.known_statistics():
            return None
        pixels = read_stored(example["image"], example["id"]).reshape(-1, 3) / 255.0
        return np.stack([np.full(3, len(pixels)), pixels.sum(axis=0), np.square(pixels).sum(axis=0)])

    def metadata(self, summary: np.ndarray | None) -> dict[str, Any]:
        known = self.known_statistics()
        if known is not None:
            mean, std = known
        elif summary is not None:
            mean, std = channel_statistics(summary)
        else:
            folder = pathlib.Path(self.data_dir)
            raise RawDataError(
                f"{self.name}: the sums over the pixels are lost (files beside {folder}); delete "
                f"{folder.with_name(f'incomplete.{folder.name}')} and prepare the set again"
            )
        return {"classes": list(self.class_names()), "mean": list(mean), "std": list(std), **self.extra_metadata()}

    def checked(self, example: dict[str, Any]) -> dict[str, Any]:
        """The example with its picture as it is stored, if that can be read."""
        name = printable(example["id"])
        return example | {"id": name, "image": storable(example["image"], name)}


def channel_statistics(summary: Float[np.ndarray, "3 3"]) -> tuple[Colour, Colour]:
    """Mean and standard deviation of each channel over all pixels, in 0..1.

    Args:
        summary: the sum of what `ImageSetBuilder.summarize` gives.
    """
    count, total, squares = summary
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 1e-12))
    return tuple(mean.tolist()), tuple(std.tolist())


class ImageSets:
    """Several sets as one data set; each is prepared, and stays, by itself.

    Subclasses set `name` and `known_sets`, and take `data_dir`, `raw_dir`, `datasets` (the sets, in the order of the
    tasks) and options of their own.

    Args:
        builders: of the sets.
        image_size: height and width in pixels that images are brought to.
    """

    name: str
    known_sets: ClassVar[tuple[str, ...]] = ()  # names of the sets that there are, whether chosen or not

    def __init__(self, builders: Sequence[ImageSetBuilder], image_size: tuple[int, int]):
        self.builders = {builder.set_name: builder for builder in builders}
        for name in self.builders:
            if name in _TAKEN or not _NAME.fullmatch(name):
                raise ValueError(
                    f"a set cannot be called {name!r}: letters, digits, '-' and '_' are needed, and "
                    f"{', '.join(_TAKEN)} are taken"
                )
        self.image_size = image_size

    @property
    def data_info(self) -> ImageSetsInfo:
        """What the data set is."""
        return ImageSetsInfo(self.name, self.image_size, self._of_each(lambda builder: builder.image_set))

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the sets: the label of an image is the target of its set."""
        return tuple(self.builders)

    def prepare(self, *, workers: int | None = None, again: bool = False) -> None:
        """Prepares the sets that are not prepared; see `Builder.prepare`."""
        self._of_each(lambda builder: builder.prepare(workers=workers, again=again))

    def stamp(self) -> tuple[int | None, ...]:
        """See `Builder.stamp`."""
        return tuple(builder.stamp() for builder in self.builders.values())

    def _of_each(self, ask: Callable[[ImageSetBuilder], Any]) -> dict[str, Any]:
        """What every set answers; where raw data of several were never named, the error lists all of these."""
        found = {}
        for name, builder in self.builders.items():
            try:
                found[name] = ask(builder)
            except RawDataError as error:
                lacking = [key for key, each in self.builders.items() if not (each.raw_dir or each.is_prepared())]
                if name not in lacking or len(lacking) == 1:
                    raise
                raise RawDataError(f"{error}\n  Sets that are not prepared yet: {', '.join(lacking)}.") from error
        return found
