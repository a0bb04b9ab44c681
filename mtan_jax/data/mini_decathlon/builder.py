"""The builder of the `mini_decathlon` data sets."""

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from mtan_jax.data.checks import check_image_size
from mtan_jax.data.image_sets import ImageSetBuilder, ImageSets
from mtan_jax.data.mini_decathlon import digits, glyphs, objects, shapes, signs, textures
from mtan_jax.data.mini_decathlon.canvas import Canvas


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What the program knows of a set that it draws.

    Attributes:
        classes: names; a label is the position of one.
        train: number of examples in "train".
        val: number of examples in "val".
        flip: whether a mirrored image keeps its class.
        draw: makes a picture, uint8 [h, w, 3], of a canvas, a label and a generator.
    """

    classes: tuple[str, ...]
    train: int
    val: int
    flip: bool
    draw: Callable[[Canvas, int, np.random.Generator], UInt8[np.ndarray, "h w 3"]]


# A set's position here is in the seed of its pictures: new ones go to the end.
SETS: dict[str, Drawing] = {
    "objects": Drawing(objects.CLASSES, 4000, 1000, True, objects.draw),
    "shapes": Drawing(shapes.CLASSES, 1000, 500, True, shapes.draw),
    "textures": Drawing(textures.CLASSES, 600, 480, True, textures.draw),
    "glyphs": Drawing(glyphs.CLASSES, 360, 360, False, glyphs.draw),
    "digits": Drawing(digits.CLASSES, 1000, 500, False, digits.draw),
    "signs": Drawing(signs.CLASSES, 800, 480, False, signs.draw),
}
SPLITS = {"train": 0, "val": 1}


class DrawnSet(ImageSetBuilder):
    """Small pictures of one kind, drawn by the program.

    The classes take turns: a split has as many examples of each as of any other, or one more. An example depends on
    the seed, its set, its split and its index alone: more examples keep the others, another image size keeps the scene.

    Args:
        set_name: one of `SETS`.
        data_dir: see `ImageSetBuilder`.
        raw_dir: not used; nothing is read.
        image_size: height and width in pixels.
        train_examples: number of examples in "train"; None is the set's own number, which a greater one gives too.
        val_examples: the same of "val".
        seed: of all pictures, 0 or greater.

    Raises:
        ValueError: the set is unknown, a size or a number of examples is not positive, or the seed is negative.
    """

    VERSION = tfds.core.Version("1.0.0")
    name = "mini_decathlon"

    def __init__(
        self,
        *,
        set_name: str,
        data_dir: str | None = None,
        raw_dir: str | None = None,
        image_size: tuple[int, int] = (32, 32),
        train_examples: int | None = None,
        val_examples: int | None = None,
        seed: int = 0,
    ):
        if set_name not in SETS:
            raise ValueError(f"mini_decathlon: there is no set {set_name!r}; choose from {', '.join(SETS)}")
        self._canvas = Canvas(*check_image_size(image_size))
        self._drawing = SETS[set_name]
        self._examples = {
            "train": _capped("train_examples", train_examples, self._drawing.train),
            "val": _capped("val_examples", val_examples, self._drawing.val),
        }
        if seed < 0:
            raise ValueError(f"mini_decathlon: seed is {seed}; it must be 0 or greater")
        self._seed = int(seed)
        self.flip = self._drawing.flip
        size = f"{self._canvas.height}x{self._canvas.width}"
        counts = "-".join(f"{split}{count}" for split, count in self._examples.items())
        super().__init__(
            set_name=set_name, data_dir=data_dir, raw_dir=raw_dir, variant=f"{set_name}-{size}-{counts}-seed{seed}"
        )

    def class_names(self) -> tuple[str, ...]:
        return self._drawing.classes

    def split_sizes(self) -> dict[str, int]:
        return dict(self._examples)

    def example(self, split: str, index: int) -> dict[str, Any]:
        place = list(SETS).index(self.set_name)
        rng = np.random.default_rng([self._seed, place, SPLITS[split], index])
        label = index % len(self._drawing.classes)
        picture = io.BytesIO()
        # The fastest level: small pictures are hardly smaller with another one.
        Image.fromarray(self._drawing.draw(self._canvas, label, rng)).save(picture, "PNG", compress_level=1)
        return {"id": f"{self.set_name}/{split}/{index:06d}", "image": picture.getvalue(), "label": label}


class MiniDecathlon(ImageSets):
    """Six sets of drawn pictures, as different as those of the Visual Decathlon, small enough for minutes on a CPU.

    `objects` is the largest and most varied, the one to learn features from; see `SETS` for the others.

    Args:
        data_dir: see `Builder`.
        raw_dir: not used; nothing is read.
        datasets: names of the sets, in the order of the tasks; None is all, in the order of `SETS`.
        image_size: height and width in pixels.
        train_examples: at most so many examples in "train" of each set; None is each set's own number.
        val_examples: the same of "val".
        seed: of all pictures, 0 or greater.

    Raises:
        ValueError: `datasets` is empty, or names a set twice or an unknown one; or see `DrawnSet`.
    """

    name = "mini_decathlon"
    known_sets = tuple(SETS)

    def __init__(
        self,
        *,
        data_dir: str | None = None,
        raw_dir: str | None = None,
        datasets: Sequence[str] | None = None,
        image_size: tuple[int, int] = (32, 32),
        train_examples: int | None = None,
        val_examples: int | None = None,
        seed: int = 0,
    ):
        names = tuple(SETS) if datasets is None else datasets
        if isinstance(names, str) or not names or len(set(names)) < len(names):
            raise ValueError(
                f"mini_decathlon: datasets is {datasets!r}; expected a sequence of different names from "
                f"{', '.join(SETS)}, such as ('objects', 'glyphs'), or None for all"
            )
        builders = [
            DrawnSet(
                set_name=name,
                data_dir=data_dir,
                raw_dir=raw_dir,
                image_size=image_size,
                train_examples=train_examples,
                val_examples=val_examples,
                seed=seed,
            )
            for name in names
        ]
        super().__init__(builders, check_image_size(image_size))


def _capped(name: str, given: int | None, own: int) -> int:
    if given is None:
        return own
    if given < 1:
        raise ValueError(f"mini_decathlon: {name} is {given}; it must be at least 1, or None for each set's own number")
    return min(int(given), own)
