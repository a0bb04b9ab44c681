"""Three small sets of labelled images for tests."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from mtan_jax.data.image_sets import ImageSetBuilder, ImageSets

SIZE = (16, 16)
CLASSES = {"hues": 3, "bars": 2, "corners": 4}
EXAMPLES = {"train": {"hues": 12, "bars": 20, "corners": 7}, "val": {"hues": 5, "bars": 6, "corners": 9}}


def draw(name, split, index):
    """An image with noise, and its class."""
    rng = np.random.default_rng([list(CLASSES).index(name), split == "val", index])
    label = index % CLASSES[name]
    image = rng.integers(0, 100, (*SIZE, 3)).astype(np.uint8)
    if name == "hues":
        image[..., label] += 120
    elif name == "bars":
        place = slice(6, 10)
        image[(place, slice(None)) if label else (slice(None), place)] += 120
    else:
        image[8 * (label // 2) :, 8 * (label % 2) :][:8, :8] += 120
    return image, label


class ToySet(ImageSetBuilder):
    """One of them."""

    VERSION = tfds.core.Version("1.0.0")
    name = "toy_sets"

    def __init__(self, set_name, data_dir):
        self.flip = set_name != "corners"
        super().__init__(set_name=set_name, data_dir=data_dir, raw_dir=None, variant=set_name)

    def class_names(self):
        return tuple(f"{self.set_name} {i}" for i in range(CLASSES[self.set_name]))

    def split_sizes(self):
        return {split: sizes[self.set_name] for split, sizes in EXAMPLES.items()}

    def example(self, split, index):
        image, label = draw(self.set_name, split, index)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        return {"id": f"{self.set_name}/{split}/{index}", "image": file.getvalue(), "label": label}


class ToySets(ImageSets):
    """All of them."""

    name = "toy_sets"

    def __init__(self, *, data_dir=None, raw_dir=None, datasets=None):
        names = tuple(CLASSES) if datasets is None else datasets
        super().__init__([ToySet(name, data_dir) for name in names], SIZE)
