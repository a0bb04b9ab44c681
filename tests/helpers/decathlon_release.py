"""Writes datasets of random images in each layout: official release, class folders, and TFDS' copy."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from mtan_jax.data.decathlon import DecathlonSet

COUNTS = {"train": {"zebra": 2, "ant": 1}, "val": {"zebra": 1}}  # for `write_folders`
# Category ids differ from labels: they descend as the folder names ascend.
LAST_CATEGORY = 900


def make(root: Path, set_name: str = "animals", layout: str = "folders", **options: Any) -> DecathlonSet:
    """A builder that reads `root/raw` and prepares the dataset in `root/prepared`."""
    folders = {"data_dir": str(root / "prepared"), "raw_dir": str(root / "raw")}
    return DecathlonSet(set_name=set_name, layout=layout, **folders | options)


def stored(builder: DecathlonSet, split: str) -> list[dict[str, Any]]:
    """The prepared examples of a split, with images as the encoded files."""
    return list(builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}))


def drawn(seed: int, form: str = "jpeg", grey: bool = False) -> bytes:
    """An encoded random image of 8 x 6 to 13 x 11 pixels."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(6, 12), rng.integers(8, 14)
    array = rng.integers(0, 256, (height, width) if grey else (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=form)
    return buffer.getvalue()


def write_folders(root: Path, name: str, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Writes `counts[split][class]` images `root/NAME/SPLIT/CLASS/NUMBER.jpg`, numbered from 1."""
    seed = 0
    for split, classes in counts.items():
        for folder, count in classes.items():
            class_folder = root / name / split / folder
            class_folder.mkdir(parents=True, exist_ok=True)
            for number in range(1, count + 1):
                (class_folder / f"{number:06d}.jpg").write_bytes(drawn(seed := seed + 1))


def write_official(root: Path, name: str, num_classes: int, *, test: int = 3, devkit: bool = False) -> None:
    """Writes a dataset with 2 training images and 1 validation image per class, and its annotations.

    Class "0001" has category 900, "0002" has 899. Image ids start at 1000 (train), 2000 (val) and 3000 (test).
    `devkit` writes everything under `decathlon-1.0`, as if extracted into the devkit.
    """
    data = root / ("decathlon-1.0/data" if devkit else "decathlon-1.0-data")
    names = [f"{number:04d}" for number in range(1, num_classes + 1)]
    write_folders(data, name, {"train": dict.fromkeys(names, 2), "val": dict.fromkeys(names, 1)})
    if test:
        write_folders(data, name, {"test": {"": test}})
    annotations = root / ("decathlon-1.0/annotations" if devkit else "annotations")
    annotations.mkdir(exist_ok=True)
    categories = [{"id": LAST_CATEGORY - label, "name": f"class {label}"} for label in range(num_classes)]
    for split, first, suffix in (("train", 1000, ""), ("val", 2000, ""), ("test", 3000, "_stripped")):
        # In reverse order of the files, so that readers cannot rely on the order.
        files = sorted((data / name / split).rglob("*.jpg"), reverse=True)
        images = [
            {"id": first + number, "file_name": f"data/{path.relative_to(data).as_posix()}", "width": 9, "height": 9}
            for number, path in enumerate(files)
        ]
        content: dict[str, Any] = {"images": images, "categories": categories}
        if split != "test":
            content["annotations"] = [
                {"id": number, "image_id": image["id"], "category_id": LAST_CATEGORY + 1 - int(path.parent.name)}
                for number, (image, path) in enumerate(zip(images, files, strict=True))
            ]
        (annotations / f"{name}_{split}{suffix}.json").write_text(json.dumps(content))


class TFDSCopy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes random images with the name, features and splits of TFDS' `visual_domain_decathlon`."""

    name = "visual_domain_decathlon"
    VERSION = "1.2.0"
    code_path = None

    def __init__(self, set_name: str, num_classes: int, **options: Any):
        self.num_classes = num_classes
        config = tfds.core.BuilderConfig(name=set_name, version=self.VERSION)
        super().__init__(config=config, **options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "name": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=self.num_classes),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        del dl_manager
        return {
            "train": self._examples("train", 4),
            "test": self._examples("test", 2),
            "validation": self._examples("val", 3),
        }

    def _generate_examples(self) -> None:
        """Required by the base class; `_split_generators` returns the generators instead."""

    def _examples(self, split: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        for number in range(count):
            label = -1 if split == "test" else number % self.num_classes
            folder = "" if split == "test" else f"{label + 1:04d}/"
            name = f"{self.builder_config.name}/{split}/{folder}{number:06d}.jpg"
            yield name, {"name": name, "image": io.BytesIO(drawn(number, grey=number == 1)), "label": label}
