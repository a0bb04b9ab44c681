"""Writes scenes as a Cityscapes release, in folders or zips, and builds and reads datasets from it."""

import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mtan_jax.data.cityscapes import Cityscapes

SIZE = (64, 128)
Scene = dict[str, Any]
PACKAGES = ("leftImg8bit", "gtFine", "disparity", "camera")
# One label id per category: road, building, pole, vegetation, sky, person, car; the last is "unlabeled", for -1.
LABEL_IDS = np.array([7, 11, 17, 21, 23, 24, 26, 0], np.uint8)


def write_release(root: Path, scenes: Iterable[Scene], zips: bool = False) -> None:
    """Writes scenes under `root` with the names and encodings of the official release.

    Args:
        root: created if it does not exist.
        scenes: dicts with `split` ("train" or "val"), `city`, `image` (uint8 [h, w, 3]), `semantic` (int8 [h, w]: the 7
            categories, -1 where void), `inverse_depth` (float32 [h, w, 1] in 1/m, 0 where undefined) and `camera`
            (`fx` in pixels, `baseline` in metres). Alternatively to `semantic` and `inverse_depth`,
            `label_ids` (uint8 [h, w]) and `disparity` (uint16 [h, w]) are written unchanged.
        zips: whether to write one zip per package, as downloaded, instead of folders.
    """
    root.mkdir(parents=True, exist_ok=True)
    archives = (
        {package: zipfile.ZipFile(root / f"{package}_trainvaltest.zip", "w") for package in PACKAGES} if zips else {}
    )
    numbers: Counter[str] = Counter()
    for scene in scenes:
        city = scene["city"]
        stem = f"{city}_{numbers[city]:06d}_000019"
        numbers[city] += 1
        for package, suffix, content in scene_files(scene):
            name = f"{package}/{scene['split']}/{city}/{stem}_{suffix}"
            if zips:
                archives[package].writestr(name, content)
            else:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)
    for archive in archives.values():
        archive.writestr("license.txt", "The official zips contain this file too.")
        archive.close()


def scene_files(scene: Scene) -> list[tuple[str, str, bytes]]:
    """Returns package, suffix and content of each file. The coloured labels are a file that readers must ignore."""
    camera = scene["camera"]
    labels = scene["label_ids"] if "label_ids" in scene else LABEL_IDS[scene["semantic"]]
    if "disparity" in scene:
        disparity = scene["disparity"]
    else:
        pixels = scene["inverse_depth"][..., 0].astype(np.float64) * camera["baseline"] * camera["fx"]
        disparity = np.where(pixels > 0, np.minimum(np.round(pixels * 256) + 1, 65535), 0).astype(np.uint16)
    content = {
        "extrinsic": {"baseline": camera["baseline"], "pitch": 0.038, "roll": 0.0, "x": 1.7, "y": 0.1, "z": 1.2},
        "intrinsic": {"fx": camera["fx"], "fy": camera["fx"], "u0": 1096.98, "v0": 513.137},
    }
    return [
        ("leftImg8bit", "leftImg8bit.png", png(scene["image"])),
        ("gtFine", "gtFine_labelIds.png", png(labels)),
        ("gtFine", "gtFine_color.png", png(scene["image"])),
        ("disparity", "disparity.png", png(disparity)),
        ("camera", "camera.json", json.dumps(content).encode()),
    ]


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="png", compress_level=1)
    return buffer.getvalue()


def random_scene(split: str, city: str, seed: int, size: tuple[int, int] = SIZE) -> Scene:
    """A scene of random pixels, for `write_release`."""
    rng = np.random.default_rng(seed)
    return {
        "split": split,
        "city": city,
        "image": rng.integers(0, 256, (*size, 3), np.uint8),
        "label_ids": rng.integers(0, 34, size, np.uint8),
        "disparity": rng.integers(0, 2**15, size, np.uint16),
        "camera": {"fx": 2000.0, "baseline": 0.2},
    }


def four_scenes() -> list[Scene]:
    """Three training scenes, not sorted by city, and one validation scene."""
    return [
        random_scene("train", "bochum", 0),
        random_scene("train", "aachen", 1),
        random_scene("val", "ulm", 2),
        random_scene("train", "aachen", 3),
    ]


def builder(root: Path, **options: Any) -> Cityscapes:
    """A builder that reads `root/raw` and prepares the dataset in `root/prepared`."""
    options = {"data_dir": str(root / "prepared"), "raw_dir": str(root / "raw"), "image_size": SIZE} | options
    return Cityscapes(**options)


def prepared(root: Path, **options: Any) -> dict[str, list[dict[str, Any]]]:
    """The prepared examples of each split."""
    data = builder(root, **options)
    data.prepare()
    return {split: list(data.as_data_source(split)) for split in ("train", "val")}


def assert_equal_examples(a: dict[str, list[dict[str, Any]]], b: dict[str, list[dict[str, Any]]]) -> None:
    for split in ("train", "val"):
        assert len(a[split]) == len(b[split])
        for left, right in zip(a[split], b[split], strict=True):
            assert left.keys() == right.keys()
            for key in ("id", "image", "semantic", "depth"):
                np.testing.assert_array_equal(left[key], right[key])
