"""Checks with plain TFDS that a prepared NYUv2 has every frame of the release once, in the official split.

    python .ci/check_rooms.py PREPARED_FOLDER

Exits with 1 where it has not.
"""
# ruff: noqa: T201

import sys

import numpy as np
import tensorflow_datasets as tfds

FRAMES = {"train": 795, "val": 654}


def main(folder: str) -> None:
    """Reads every example."""
    builder = tfds.builder_from_directory(folder)
    ids: list[bytes] = []
    for split, expected in FRAMES.items():
        found = [example["id"] for example in builder.as_data_source(split)]
        print(f"{split}: {len(found)} frames, {builder.info.splits[split].num_shards} files")
        if len(found) != expected or found != sorted(found):
            sys.exit(f"error: {split} has {len(found)} frames, expected {expected} in ascending order")
        ids += found
    numbers = np.sort([int(name.removeprefix(b"nyuv2/")) for name in ids])
    if not np.array_equal(numbers, np.arange(1, 1450)):
        sys.exit("error: a frame is missing or there twice")


if __name__ == "__main__":
    main(sys.argv[1])
