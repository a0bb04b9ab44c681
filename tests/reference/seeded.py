"""Weights and images of full size that need not be stored: functions of a name."""

import zlib

import numpy as np


def seeded_image(rows, height, width):
    """Noise in 0..1, coarse and fine, float32 [rows, 3, height, width]."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(size=(rows, 3, -(-height // 16), -(-width // 16))).repeat(16, 2).repeat(16, 3)
    image = 0.7 * coarse + 0.3 * rng.uniform(size=coarse.shape)
    return image[..., :height, :width].astype(np.float32)


def seeded_labels(rows, classes):
    """A class a row, int64 [rows]."""
    return np.random.default_rng(classes).integers(0, classes, rows)


def seeded_state(stored, prefix=""):
    """A state_dict of seeded weights and stored running statistics.

    Args:
        stored: with `names` and `shapes` (filled up with 0) of the state_dict, and `running`, all statistics flat.
        prefix: of the three.
    """
    shapes = [tuple(int(size) for size in shape if size) for shape in stored[f"{prefix}shapes"]]
    entries = dict(zip(map(str, stored[f"{prefix}names"]), shapes, strict=True))
    kept = [name for name in entries if "running" in name]
    ends = np.cumsum([np.prod(entries[name], dtype=int) for name in kept])
    state = dict(zip(kept, np.split(stored[f"{prefix}running"], ends[:-1]), strict=True))
    return state | {name: seeded_weights(name, shape) for name, shape in entries.items() if name not in state}


def seeded_weights(name, shape):
    """A parameter of PyTorch's name and shape, float32: about as large as trained ones."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) > 1:
        fan_in = np.prod(shape[1:])
        return (rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))).astype(np.float32)
    if name.endswith("weight"):  # scale of a BatchNorm
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return (0.2 * rng.standard_normal(shape, np.float32)).astype(np.float32)


def seeded_directions(name, size):
    """Eight random directions for an array of this name and size, float64 [8, size].

    Products with them stand for an array that is too large to store: the mean square of those of a difference is, on
    average, the square of its norm.
    """
    return np.random.default_rng(zlib.crc32(f"directions of {name}".encode())).standard_normal((8, size))
