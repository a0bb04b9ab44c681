"""Sets of labelled images, each the data of one task: what is stored of a set, and several sets as one data set."""

import abc
import dataclasses
import io
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from mtan_jax.data.builder import Builder, RawDataError

Colour = tuple[float, float, float]

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_TAKEN = ("attention", "backbone", "mean")  # parts of the network, and the mean over the sets in the metrics

_FORMATS = ("JPEG", "PNG")  # what TFDS can store as it is

# Most of Pillow's own errors are OSError; its readers of damaged files let others through.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


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

    Subclasses set `VERSION` and `name`, and define `class_names`, `split_sizes`, `examples` and, where there is a raw
    release, `check_raw` and `raw_files`. An example of `examples` has as "image" a path or the bytes of a JPEG or PNG
    file; it is stored as it is, after it was decoded once to see that it can be.

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

    def prepare(self) -> None:
        if not self.is_prepared():
            self.check_raw()
            mean, std = self.known_statistics() or channel_statistics(self)
            self.info.metadata.update(
                classes=list(self.class_names()), mean=list(mean), std=list(std), **self.extra_metadata()
            )
        super().prepare()

    def _checked(self, example: dict[str, Any]) -> dict[str, Any]:
        """The example, if its picture can be decoded."""
        decode(example["image"], example["id"])
        return example


def channel_statistics(builder: ImageSetBuilder) -> tuple[Colour, Colour]:
    """Mean and standard deviation of each channel over all pixels of "train", in 0..1.

    Raises:
        RawDataError: a picture cannot be read; the message names it.
    """
    total, squares, count = np.zeros(3), np.zeros(3), 0
    for example in builder.examples("train"):
        pixels = decode(example["image"], example["id"]).reshape(-1, 3) / 255.0
        total += pixels.sum(axis=0)
        squares += np.square(pixels).sum(axis=0)
        count += len(pixels)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 1e-12))
    return tuple(mean.tolist()), tuple(std.tolist())


def decode(picture: bytes | str | Path, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an encoded picture: a path, or the bytes of the file. Of 16 bits a channel the upper 8 are kept.

    Raises:
        RawDataError: it is no JPEG or PNG picture, a damaged one or a huge one; the message has the path, or `name` for
            bytes.
    """
    try:
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture, formats=_FORMATS) as image:
            if image.mode.startswith("I"):  # grey of 16 bits, of which `convert` would make 255 of all above 255
                grey = (np.asarray(image) >> 8).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=-1)
            return np.asarray(image.convert("RGB"))
    except _UNREADABLE as error:
        where = name if isinstance(picture, bytes) else picture
        raise RawDataError(
            f"{where}: cannot be read as a JPEG or PNG picture ({error}); remove it or put another in its place"
        ) from error


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
        self._image_size = image_size

    @property
    def data_info(self) -> ImageSetsInfo:
        """What the data set is."""
        return ImageSetsInfo(self.name, self._image_size, self._of_each(lambda builder: builder.image_set))

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the sets: the label of an image is the target of its set."""
        return tuple(self.builders)

    def prepare(self) -> None:
        """Prepares the sets that are not prepared; see `Builder.prepare`."""
        self._of_each(lambda builder: builder.prepare())

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
