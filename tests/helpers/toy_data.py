"""A dense dataset of noise, prepared like real ones."""

import numpy as np

from mtan_jax.data.builder import TARGETS as KNOWN
from mtan_jax.data.builder import DataInfo, DenseBuilder, Target

SIZE = (8, 12)
TARGETS = ("semantic", "depth", "normal")


class ToyBuilder(DenseBuilder):
    """Noise; example i has the id toy/SPLIT/i and the first pixel i."""

    VERSION = "1.0.0"
    targets = KNOWN | {"normal": Target(3, np.float16)}

    def __init__(self, *, data_dir, raw_dir=None):
        super().__init__(data_dir=data_dir, raw_dir=raw_dir, variant="toy")

    @property
    def data_info(self):
        return DataInfo("toy", SIZE, ("a", "b"), np.zeros((2, 3), np.uint8), True, "1/m")

    def split_sizes(self):
        return {"train": 11, "val": 7}

    def example(self, split, index):
        return {"id": f"toy/{split}/{index}", **make_arrays(index), "labelled": make_labelled(index)}


class ShardedToyBuilder(ToyBuilder):
    """The same examples in 4 and 3 shards."""

    max_shard_examples = 3


def make_arrays(i):
    rng = np.random.default_rng(i)
    image = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    image[0, 0] = i
    return {
        "image": image,
        "semantic": rng.integers(-1, 2, SIZE).astype(np.int8),
        "depth": rng.uniform(0.1, 2, (*SIZE, 1)).astype(np.float32),
        "normal": rng.normal(size=(*SIZE, 3)).astype(np.float16),
    }


def make_labelled(i):
    return {"semantic": True, "depth": i % 2 == 0, "normal": i % 3 > 0}
