"""The builder of the `streets` data set."""

from typing import Any

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
_BLOCK = 20  # in each block of 20 scenes, each target is missing once


class Streets(DenseBuilder):
    """Rendered street scenes seen from a car, with the 7 Cityscapes categories, inverse depth and surface normals.

    Depth is the inverse depth along the camera's axis in 1/m. Normals are unit vectors in camera coordinates, x to the
    right, y up, z towards the viewer: a level road is about (0, 1, 0), a surface that faces the camera (0, 0, 1). Both
    are undefined (0) in the sky, on the bonnet of the camera's own car and on the thin border that some images have;
    depth also in a few holes. The class map is -1 on the bonnet, on the border and on things without a class. In every
    20 scenes, one has no class map, another one no depth, a third no normals.

    A scene depends on the seed, its split and its index alone: more examples or another image size keep its layout.

    Args:
        data_dir: see `DenseBuilder`.
        raw_dir: not used; nothing is read.
        image_size: height and width in pixels.
        train_examples: number of scenes in "train".
        val_examples: number of scenes in "val".
        seed: of all scenes, 0 or greater.

    Raises:
        ValueError: a size or a number of examples is not positive, or the seed is negative.
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
                raise ValueError(f"streets: {name} is {value}; it must be at least 1")
        if seed < 0:
            raise ValueError(f"streets: seed is {seed}; it must be 0 or greater")
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

    def example(self, split: str, index: int) -> dict[str, Any]:
        scene = render(self._seed, split, index, self._image_size)
        labelled = labelled_targets(self._seed, split, index)
        targets = {
            name: scene[name] if labelled[name] else np.full_like(scene[name], _UNDEFINED[name]) for name in _UNDEFINED
        }
        targets["normal"] = targets["normal"].astype(np.float16)
        return {"id": f"streets/{split}/{index:06d}", "image": scene["image"], "labelled": labelled, **targets}


def labelled_targets(seed: int, split: str, index: int) -> dict[str, bool]:
    """Which targets a scene has labels for; in each block of 20 scenes, each target is missing in one."""
    block, place = divmod(index, _BLOCK)
    order = np.random.default_rng([seed, SPLITS[split], block, 2]).permutation(_BLOCK)
    return {name: bool(order[i] != place) for i, name in enumerate(_UNDEFINED)}
