"""Writes a small NYUv2 release in the official format."""

import functools

import h5py
import numpy as np
import scipy.io

MAT = "nyu_depth_v2_labeled.mat"
NUM_FRAMES = 5
SPLIT = {"trainNdxs": [[4], [1], [2]], "testNdxs": [[5], [3]]}


@functools.cache
def stored_frames():
    """Images, depths and labels, upright: [frame, row, column, ...]."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:480, :640]
    image = np.stack([columns // 3, rows // 2, (rows + columns) // 5], -1).astype(np.uint8)
    return {
        "images": np.stack([image // (i + 1) for i in range(NUM_FRAMES)]),
        "depths": np.stack([(2 + i + columns / 640).astype(np.float32) for i in range(NUM_FRAMES)]),
        "labels": np.repeat(rng.integers(0, 895, (NUM_FRAMES, 480, 80), np.uint16), 8, axis=2),
    }


def frames():
    return {key: array.copy() for key, array in stored_frames().items()}


def write_mat(root, arrays):
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / MAT, "w") as mat:
        for key, array in arrays.items():
            mat[key] = array.transpose(0, *range(array.ndim - 1, 0, -1))
    write_splits(root, SPLIT)


def write_splits(root, split):
    scipy.io.savemat(root / "splits.mat", {key: np.array(value, np.uint16) for key, value in split.items()})
