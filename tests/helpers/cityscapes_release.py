"""Writes scenes as a Cityscapes release, in folders or in zips."""

import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PARTS = ("leftImg8bit", "gtFine", "disparity", "camera")
# One label id a category: road, building, pole, vegetation, sky, person, car; at the end "unlabeled", for -1.
LABEL_IDS = np.array([7, 11, 17, 21, 23, 24, 26, 0], np.uint8)


def write_release(root: Path, scenes: Iterable[dict[str, Any]], zips: bool = False) -> None:
    """Writes scenes under `root` with the names and encodings of the official release.

    Args:
        root: made where it does not exist.
        scenes: dicts with `split` ("train" or "val"), `city`, `image` (uint8 [h, w, 3]), `semantic` (int8 [h, w]: the 7
            categories, -1 where void), `inverse_depth` (float32 [h, w, 1] in 1/m, 0 where undefined) and `camera`
            (`fx` in pixels, `baseline` in metres). Instead of `semantic` and `inverse_depth`, `label_ids` (uint8
            [h, w]) and `disparity` (uint16 [h, w]) are written as they are.
        zips: one zip a part, as downloaded, in place of folders.
    """
    root.mkdir(parents=True, exist_ok=True)
    archives = {part: zipfile.ZipFile(root / f"{part}_trainvaltest.zip", "w") for part in PARTS} if zips else {}
    numbers: Counter[str] = Counter()
    for scene in scenes:
        city = scene["city"]
        stem = f"{city}_{numbers[city]:06d}_000019"
        numbers[city] += 1
        for part, suffix, content in scene_files(scene):
            name = f"{part}/{scene['split']}/{city}/{stem}_{suffix}"
            if zips:
                archives[part].writestr(name, content)
            else:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)
    for archive in archives.values():
        archive.writestr("license.txt", "A file that the official zips hold too.")
        archive.close()


def scene_files(scene: dict[str, Any]) -> list[tuple[str, str, bytes]]:
    """Part, name after the stem and content of each file; the coloured label picture is one that is to be ignored."""
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
        ("leftImg8bit", "leftImg8bit.png", _png(scene["image"])),
        ("gtFine", "gtFine_labelIds.png", _png(labels)),
        ("gtFine", "gtFine_color.png", _png(scene["image"])),
        ("disparity", "disparity.png", _png(disparity)),
        ("camera", "camera.json", json.dumps(content).encode()),
    ]


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="png", compress_level=1)
    return buffer.getvalue()
