"""Makes the Visual Decathlon with the official number of images, as hard links to a few drawn JPEGs per set.

    python experiments/life_size/make_decathlon.py --scratch=runs/life_size ten imagenet12

`ten`: raw/decathlon, nine sets at their official size and a slice of imagenet12 (100 000 + 5000 + 5000). `imagenet12`:
raw/imagenet12, that set alone with all its 1 329 405 images. Images have a shorter side of 72 pixels and
some 3 KB. Class folders are named 0001 and so on, with images spread evenly. Annotations have the release's format.
"""

import io
import json
import pathlib
from collections.abc import Iterable

import numpy as np
from inputs import link, parser, part_of, whole
from PIL import Image

from mtan_jax.data.decathlon.sets import NUM_CLASSES

# Images in train, val and test. Source: the TFDS catalogue's page of `visual_domain_decathlon` (version 1.1.0).
SIZES = {
    "imagenet12": (1_232_167, 49_000, 48_238),
    "aircraft": (3334, 3333, 3333),
    "cifar100": (40_000, 10_000, 10_000),
    "daimlerpedcls": (23_520, 5880, 19_600),
    "dtd": (1880, 1880, 1880),
    "gtsrb": (31_367, 7842, 12_630),
    "omniglot": (17_853, 6492, 8115),
    "svhn": (47_217, 26_040, 26_032),
    "ucf101": (7585, 1952, 3783),
    "vgg-flowers": (1020, 1020, 6149),
}
SLICE = (40_000, 2000, 2000)
LINKS = 60_000  # hard links to one file; ext4 allows 65 000
SPLITS = {"train": "train", "val": "val", "test": "test_stripped"}  # also the suffixes of the annotations' names


def main() -> None:
    """Makes the requested parts that do not exist yet."""
    arguments = parser(__doc__)
    arguments.add_argument("kinds", nargs="+", choices=["ten", "imagenet12"])
    given = arguments.parse_args()
    for kind in given.kinds:
        folder = given.scratch / "raw" / ("decathlon" if kind == "ten" else kind)
        if folder.exists():
            continue
        sizes = SIZES | {"imagenet12": SLICE} if kind == "ten" else {"imagenet12": SIZES["imagenet12"]}
        with whole(folder) as part:
            for name, counts in sizes.items():
                write_set(part, name, split_counts(name, counts, given.fraction))


def split_counts(name: str, counts: Iterable[int], fraction: float) -> dict[str, int]:
    """Returns the number of images in each split; every class has at least one in train."""
    least = {"train": NUM_CLASSES[name]}
    return {split: part_of(count, fraction, least.get(split, 1)) for split, count in zip(SPLITS, counts, strict=True)}


def write_set(root: pathlib.Path, name: str, counts: dict[str, int]) -> None:
    """Writes images and annotations of one set."""
    sources = draw(root.parent / "decathlon_pictures" / name, 8 + 2 * sum(counts.values()) // LINKS)
    classes = NUM_CLASSES[name]
    done = 0
    for split, count in counts.items():
        folder = root / "decathlon-1.0-data" / name / split
        folders = [""] if split == "test" else [f"{label + 1:04d}" for label in range(classes)]
        for sub in folders[:count]:  # a class without images has no folder
            (folder / sub).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            link(sources[(done + i) % len(sources)], f"{folder}/{file_name(i, folders)}")
        done += count
        annotate(root / "annotations" / f"{name}_{SPLITS[split]}.json", f"data/{name}/{split}", count, folders, classes)


def file_name(i: int, folders: list[str]) -> str:
    """Returns the path of image `i` below its split: images are dealt to the classes in turn."""
    number, label = divmod(i, len(folders))
    return f"{folders[label]}/{number + 1:06d}.jpg".lstrip("/")


def draw(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Draws images of 72x72 to 108x72 pixels, some 3 KB each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        if path.exists():
            continue
        rng = np.random.default_rng([*folder.name.encode(), i])
        width = int(rng.integers(72, 109))
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
        smooth = np.asarray(coarse.resize((width, 72), Image.Resampling.BICUBIC))
        pixels = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="jpeg", quality=90)
        path.write_bytes(buffer.getvalue())
    return paths


def annotate(path: pathlib.Path, prefix: str, count: int, folders: list[str], classes: int) -> None:
    """Writes the annotations of a split line by line, because there are up to a million."""
    path.parent.mkdir(exist_ok=True)
    test = path.stem.endswith("stripped")
    first = {"train": 10_000_000, "val": 20_000_000, "test": 30_000_000}[prefix.rsplit("/", 1)[1]]
    with path.open("w") as file:
        file.write('{"images": [\n')
        for i in range(count):
            entry = {"id": first + i, "file_name": f"{prefix}/{file_name(i, folders)}", "width": 72, "height": 72}
            file.write(json.dumps(entry) + (",\n" if i + 1 < count else "\n"))
        file.write('], "categories": ')
        json.dump([{"id": 1000 + label, "name": f"class {label}"} for label in range(classes)], file)
        if not test:
            file.write(', "annotations": [\n')
            for i in range(count):
                entry = {"id": first + i, "image_id": first + i, "category_id": 1000 + i % classes}
                file.write(json.dumps(entry) + (",\n" if i + 1 < count else "\n"))
            file.write("]")
        file.write("}\n")


if __name__ == "__main__":
    main()
