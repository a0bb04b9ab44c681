"""Splits arrays of images into batches of equal size, so that the prediction step is compiled once."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32


def padded_batches(
    images: Float32[np.ndarray, "n h w 3"], batch_size: int
) -> Iterator[tuple[Float32[np.ndarray, "b h w 3"], int]]:
    """Yields batches of images, and the number of images in each without padding.

    The last batch is padded by repeating its last image.

    Args:
        images: at least one.
        batch_size: images per batch; fewer if there are fewer images.
    """
    size = min(batch_size, len(images))
    for start in range(0, len(images), size):
        part = images[start : start + size]
        yield np.pad(part, [(0, size - len(part)), (0, 0), (0, 0), (0, 0)], mode="edge"), len(part)
