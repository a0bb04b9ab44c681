"""The `streets` dataset builder."""

import numpy as np
import tensorflow_datasets as tfds

from mtan_jax.data.builder import TARGETS, DataInfo, DenseBuilder, Target
from mtan_jax.data.checks import check_image_size
from mtan_jax.data.streets.render import SPLITS, render

CLASSES = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
PALETTE = np.array(
    [
        *((128, 64, 128), (70, 70, 70), (220, 220, 0), (107, 142, 35)),
        *((70, 130, 180), (220, 20, 60), (0, 0, 142)),
    ],
    np.uint8,
)
_UNDEFINED = {"semantic": -1, "depth": 0, "normal": 0}
_BLOCK = 20  # each target is missing once in each block of 20 scenes


class Streets(DenseBuilder):
    """Rendered street scenes seen from a car, with the 7 Cityscapes categories, inverse depth and surface normals.

    Depth is the inverse depth along the camera axis in 1/m. Normals are unit vectors in camera coordinates, x to the
    right, y up, z towards the viewer: a level road is about (0, 1, 0), a surface that faces the camera (0, 0, 1). Both
    are undefined (0) in the sky, on the bonnet of the camera's own car and on the thin border that some images have.
    Depth also has a few holes. The class map is -1 on the bonnet, on the border and on objects without a class. In
    every 20 scenes, one lacks the class map, another the depth and a third the normals.

    A scene only depends on the seed, the split and the index, and its layout does not depend on the image size.

    Args:
        data_dir: where prepared datasets are stored; None is the TFDS default.
        raw_dir: unused, since there are no raw data.
        image_size: height and width in pixels.
        train_examples: number of scenes in "train".
        val_examples: number of scenes in "val".
        seed: seed of all scenes, at least 0.

    Raises:
        ValueError: if a size or number of examples is not positive, or the seed is negative.
    """

    VERSION = tfds.core.Version("1.1.0")
    max_shard_examples = 50  # a scene takes about 0.1 s to render
    targets = TARGETS | {"normal": Target(3, np.float16)}

    def __init__(
        self,
        *,
        data_dir: str | None = None,
        raw_dir: str | None = None,
        image_size: tuple[int, int] = (128, 256),
        train_examples: int = 1000,
        val_examples: int = 200,
        seed: int = 0,
    ):
        height, width = check_image_size(image_size)
        for name, value in {"train_examples": train_examples, "val_examples": val_examples}.items():
            if value < 1:
                raise ValueError(f"streets: got {name}={value}; expected at least 1.")
        if seed < 0:
            raise ValueError(f"streets: got seed={seed}; expected 0 or greater.")
        self._image_size = (height, width)
        self._examples = {"train": int(train_examples), "val": int(val_examples)}
        self._seed = int(seed)
        variant = f"{height}x{width}-train{train_examples}-val{val_examples}-seed{seed}"
        super().__init__(data_dir=data_dir, raw_dir=raw_dir, variant=variant)

    @property
    def data_info(self) -> DataInfo:
        return DataInfo("streets", self._image_size, CLASSES, PALETTE, inverse_depth=True, depth_unit="1/m")

    def split_sizes(self) -> dict[str, int]:
        return dict(self._examples)

    def example(self, split: str, index: int) -> dict[str, object]:
        scene = render(self._seed, split, index, self._image_size)
        labelled = labelled_targets(self._seed, split, index)
        maps = {"semantic": scene["semantic"], "depth": scene["depth"], "normal": scene["normal"].astype(np.float16)}
        targets = {
            name: values if labelled[name] else np.full_like(values, _UNDEFINED[name]) for name, values in maps.items()
        }
        return {"id": f"streets/{split}/{index:06d}", "image": scene["image"], "labelled": labelled, **targets}


def labelled_targets(seed: int, split: str, index: int) -> dict[str, bool]:
    """Returns which targets a scene has. In each block of 20 scenes, each target is missing once."""
    block, offset = divmod(index, _BLOCK)
    order = np.random.default_rng([seed, SPLITS[split], block, 2]).permutation(_BLOCK)
    return {name: bool(order[i] != offset) for i, name in enumerate(_UNDEFINED)}
