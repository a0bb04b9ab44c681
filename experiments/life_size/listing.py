"""Lists a set of the Visual Decathlon as its preparation does, and checks the order of its examples.

    python experiments/life_size/listing.py --raw_dir=runs/life_size/raw/imagenet12 --set=imagenet12

The expected order follows from the number of images per class, as make_decathlon.py distributes them: classes by name,
images by number. The first and the last example of every class and 20 000 random ones are checked.
"""

import argparse
import json
import sys
import time

import numpy as np

from mtan_jax.data.decathlon import DecathlonSet
from mtan_jax.data.decathlon.sets import NUM_CLASSES
from mtan_jax.runtime import paths

RANDOM = 20_000


def main() -> None:
    """Lists a set and checks its order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw_dir", type=paths.expanded, required=True)
    parser.add_argument("--set", required=True, choices=list(NUM_CLASSES))
    given = parser.parse_args()
    builder = DecathlonSet(set_name=given.set, raw_dir=str(given.raw_dir), layout="official")
    seconds = {}
    start = time.perf_counter()
    builder.check_raw()
    sizes = builder.split_sizes()
    seconds["check_raw"] = round(time.perf_counter() - start, 1)
    start = time.perf_counter()
    files = sum(1 for _ in builder.raw_files())
    seconds["raw_files"] = round(time.perf_counter() - start, 1)
    start = time.perf_counter()
    checked = {split: check_order(builder, split, sizes[split]) for split in ("train", "val")}
    seconds["examples"] = round(time.perf_counter() - start, 1)
    if files < sum(sizes.values()):
        raise SystemExit(f"raw_files lists {files} files; the splits have {sum(sizes.values())} images")
    result = {"sizes": sizes, "files": files, "checked": checked, "seconds": seconds}
    sys.stdout.write(json.dumps(result) + "\n")


def check_order(builder: DecathlonSet, split: str, size: int) -> int:
    """Compares ids and labels; returns the number of examples compared, and exits with 1 at the first difference."""
    classes = NUM_CLASSES[builder.set_name]
    counts = np.full(classes, size // classes) + (np.arange(classes) < size % classes)
    ends = np.cumsum(counts)
    random = np.random.default_rng(0).integers(0, size, RANDOM)
    indices = np.unique(np.concatenate([(ends - counts)[counts > 0], (ends - 1)[counts > 0], random]))
    for index in indices.tolist():
        label = int(np.searchsorted(ends, index, side="right"))
        number = index - int(ends[label] - counts[label]) + 1
        expected = (f"{builder.set_name}/{split}/{label + 1:04d}/{number:06d}.jpg", label)
        example = builder.example(split, index)
        if (example["id"], example["label"]) != expected:
            raise SystemExit(f"{split} {index}: got {example['id']}, label {example['label']}; expected {expected}")
    return len(indices)


if __name__ == "__main__":
    main()
