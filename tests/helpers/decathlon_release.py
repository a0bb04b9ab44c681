"""Writes sets of drawn pictures as they come: the release of Visual Decathlon, folders, or TFDS' own copy."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

# The release's ids of categories are not its labels: here they fall where the names of the folders rise.
LAST_CATEGORY = 900


def drawn(seed: int, form: str = "jpeg", grey: bool = False) -> bytes:
    """An encoded picture of 8 x 6 to 13 x 11 pixels."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(6, 12), rng.integers(8, 14)
    array = rng.integers(0, 256, (height, width) if grey else (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=form)
    return buffer.getvalue()


def write_folders(root: Path, name: str, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Writes `root/NAME/SPLIT/CLASS/NUMBER.jpg` with as many pictures as `counts[split][class]`, from 1 on."""
    seed = 0
    for split, classes in counts.items():
        for folder, count in classes.items():
            place = root / name / split / folder
            place.mkdir(parents=True, exist_ok=True)
            for number in range(1, count + 1):
                (place / f"{number:06d}.jpg").write_bytes(drawn(seed := seed + 1))


def write_official(root: Path, name: str, num_classes: int, *, test: int = 3, devkit: bool = False) -> None:
    """Writes a set with 2 training pictures and 1 validation picture of each class, and its annotations.

    The class "0001" has the category 900, "0002" has 899; a picture's id is 1000, 2000 or 3000 (train, val, test) and
    its number. `devkit` puts all below `decathlon-1.0`, as the devkit's own folders are.
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
        # Not in the order of the files, so that nothing can be right by its place alone.
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
    """What TFDS' `visual_domain_decathlon` writes: its name, features and splits, with drawn pictures."""

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
            "train": self._pictures("train", 4),
            "test": self._pictures("test", 2),
            "validation": self._pictures("val", 3),
        }

    def _generate_examples(self) -> None:
        """Nothing: `_split_generators` has the generators."""

    def _pictures(self, split: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        for number in range(count):
            label = -1 if split == "test" else number % self.num_classes
            folder = "" if split == "test" else f"{label + 1:04d}/"
            name = f"{self.builder_config.name}/{split}/{folder}{number:06d}.jpg"
            yield name, {"name": name, "image": io.BytesIO(drawn(number, grey=number == 1)), "label": label}
