"""Writes random datasets in the MTAN authors' layout, `{train,val}/FOLDER/I.npy`."""

import numpy as np

KINDS = {
    "image": "image",
    "label": "semantic",
    "depth": "depth",
    "normal": "normal",
}  # the kind of array in each folder
SPLITS = ("train", "val")


def draw(size, seed, num_classes=13):
    """Draws the arrays of an example by folder, in the authors' dtypes and shapes."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(*size, 3))
    return {
        "image": rng.uniform(0, 1, (*size, 3)),
        "label": rng.integers(-1, num_classes, size).astype(np.float64),
        "depth": rng.uniform(0, 9, (*size, 1)),
        "normal": normal / np.linalg.norm(normal, axis=-1, keepdims=True),
    }


def write(root, size, counts=(3, 2), change=None):
    """Writes the arrays of NYUv2; `change` transforms the arrays of each example first."""
    for split, count in zip(SPLITS, counts, strict=True):
        for number in range(count):
            arrays = draw(size, [SPLITS.index(split), number])
            for folder, array in (change(arrays) if change else arrays).items():
                path = root / split / folder / f"{number}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, array)
