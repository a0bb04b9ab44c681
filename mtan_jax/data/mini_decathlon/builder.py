"""The builders of the `mini_decathlon` datasets."""

import dataclasses
import io
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from mtan_jax.data.checks import check_image_size
from mtan_jax.data.image_sets import ImageSetBuilder, ImageSets
from mtan_jax.data.mini_decathlon import digits, glyphs, objects, shapes, signs, textures
from mtan_jax.data.mini_decathlon.canvas import Canvas


@dataclasses.dataclass(frozen=True)
class Drawing:
    """The definition of a drawn dataset.

    Attributes:
        classes: class names, in label order.
        train: number of examples in "train".
        val: number of examples in "val".
        flip: whether a flipped image keeps its class.
        draw: draws an image, uint8 [h, w, 3], given a canvas, a label and a random generator.
    """

    classes: tuple[str, ...]
    train: int
    val: int
    flip: bool
    draw: Callable[[Canvas, int, np.random.Generator], UInt8[np.ndarray, "h w 3"]]


# The position of a dataset is part of the seed of its images, so new datasets must be appended.
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
    """A dataset of small drawn images.

    Labels cycle through the classes, so the number of examples per class differs by at most one. An example only
    depends on the seed, the dataset, the split and the index. Other examples do not change if their number does, and
    scenes do not change with the image size.

    Args:
        set_name: one of `SETS`.
        data_dir: where prepared datasets are stored; None is the TFDS default.
        raw_dir: unused, since there are no raw data.
        image_size: height and width in pixels.
        train_examples: number of examples in "train"; at most, and by default, the number in `SETS`.
        val_examples: number of examples in "val"; at most, and by default, the number in `SETS`.
        seed: seed of all images, at least 0.

    Raises:
        ValueError: if the dataset is unknown, a size or number of examples is not positive, or the seed is negative.
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
            raise ValueError(f"mini_decathlon: unknown dataset {set_name!r}; expected one of {', '.join(SETS)}.")
        self._canvas = Canvas(*check_image_size(image_size))
        self._drawing = SETS[set_name]
        self._examples = {
            "train": _capped("train_examples", train_examples, self._drawing.train),
            "val": _capped("val_examples", val_examples, self._drawing.val),
        }
        if seed < 0:
            raise ValueError(f"mini_decathlon: got seed={seed}; expected 0 or greater.")
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

    def example(self, split: str, index: int) -> dict[str, object]:
        from PIL import Image

        position = list(SETS).index(self.set_name)
        rng = np.random.default_rng([self._seed, position, SPLITS[split], index])
        label = index % len(self._drawing.classes)
        encoded = io.BytesIO()
        # The fastest level, since higher ones hardly reduce the size of small images.
        Image.fromarray(self._drawing.draw(self._canvas, label, rng)).save(encoded, "PNG", compress_level=1)
        return {"id": f"{self.set_name}/{split}/{index:06d}", "image": encoded.getvalue(), "label": label}


class MiniDecathlon(ImageSets):
    """Six datasets of drawn images, as varied as those of the Visual Decathlon, that train in minutes on a CPU.

    `objects` is the largest and most varied, and meant for pretraining; `SETS` has the others.

    Args:
        data_dir: where prepared datasets are stored; None is the TFDS default.
        raw_dir: unused, since there are no raw data.
        datasets: names of the datasets, in task order; None is all, in the order of `SETS`.
        image_size: height and width in pixels.
        train_examples: maximum number of examples in "train" of each dataset; None is no limit.
        val_examples: maximum number of examples in "val" of each dataset; None is no limit.
        seed: seed of all images, at least 0.

    Raises:
        ValueError: if `datasets` is empty or has duplicates, or `DrawnSet` rejects an argument.
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
                f"mini_decathlon: got datasets={datasets!r}; expected a sequence of distinct names among "
                f"{', '.join(SETS)}, such as ('objects', 'glyphs'), or None for all."
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


def _capped(name: str, maximum: int | None, available: int) -> int:
    if maximum is None:
        return available
    if maximum < 1:
        raise ValueError(f"mini_decathlon: got {name}={maximum}; expected at least 1, or None for no limit.")
    return min(int(maximum), available)
