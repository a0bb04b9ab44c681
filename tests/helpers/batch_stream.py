"""A stream of training batches that worker processes can load."""

import numpy as np

from mtan_jax.data.batches import pipeline


class Source:
    """Five examples of 0.7 MB each."""

    def __len__(self):
        return 5

    def __getitem__(self, i):
        depth = np.full((128, 128, 8), i, np.float32)
        return {"id": str(i), "image": np.uint8(depth[..., :3]), "depth": depth, "labelled": {"depth": True}}


def train(workers, **changes):
    options = {"global_batch_size": 2, "seed": 0, "start_step": 0, "process_index": 0, "process_count": 1}
    return pipeline.train_batches(Source(), targets=("depth",), augment=None, workers=workers, **(options | changes))
