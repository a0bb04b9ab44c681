"""The raw layouts of Visual Decathlon: the official release, class folders, and a copy prepared by TFDS."""

import glob
from collections.abc import Collection
from pathlib import Path

from mtan_jax.data.raw.raw_layout import RawLayout

DATA_FOLDERS = ("decathlon-1.0-data", "decathlon-1.0/data")  # the data on their own, or extracted into the devkit
ANNOTATION_FOLDERS = ("annotations", "decathlon-1.0/annotations")
WITHOUT = "configs/mini_decathlon.py"


def _signs(layout: str, set_name: str) -> tuple[str, ...]:
    """Returns glob patterns whose matches indicate that a folder has a dataset in a layout."""
    return {
        "official": tuple(f"{folder}/{set_name}/train" for folder in DATA_FOLDERS),
        "folders": (f"{set_name}/train",),
        "tfds": (f"visual_domain_decathlon/{set_name}/*/features.json",),
    }[layout]


OFFICIAL = RawLayout(
    dataset="Visual Decathlon",
    name="official",
    expected=(
        "decathlon-1.0-data/SET/{train,val}/CLASS/*.jpg    or decathlon-1.0/data/SET/...",
        "decathlon-1.0-data/SET/test/*.jpg    (optional)",
        "annotations/SET_{train,val,test_stripped}.json    or decathlon-1.0/annotations/...",
    ),
    source=(
        "https://www.robots.ox.ac.uk/~vgg/decathlon (devkit and data; extract the tar file of each dataset too; "
        "ImageNet from https://www.image-net.org, registration required)"
    ),
    signs=_signs("official", "*"),
    without=WITHOUT,
)

FOLDERS = RawLayout(
    dataset="Visual Decathlon",
    name="folders",
    expected=(
        "SET/{train,val}/CLASS/*.{jpg,jpeg,png}    or other image formats that Pillow reads",
        "SET/test/CLASS/*.{jpg,jpeg,png}    or, if the classes are unknown, SET/test/* (optional)",
    ),
    source="your own images, or a part of Visual Decathlon",
    signs=_signs("folders", "*"),
    without=WITHOUT,
)

TFDS = RawLayout(
    dataset="Visual Decathlon",
    name="tfds",
    expected=("visual_domain_decathlon/SET/VERSION/    in array_record files, there or in config.data.data_dir",),
    source="tfds build visual_domain_decathlon/SET --file_format=array_record    (needs TensorFlow)",
    signs=_signs("tfds", "*"),
    without=WITHOUT,
)

LAYOUTS = {layout.name: layout for layout in (OFFICIAL, FOLDERS, TFDS)}


def detect_layout(set_name: str, raw_dir: Path | None, data_dir: Path, prepared: Collection[str]) -> str:
    """Detects the layout of one of the ten datasets.

    The candidates, in order: the layout of the dataset in `raw_dir`, the layout it is already prepared from, the layout
    of other datasets in `raw_dir`, "tfds" if `data_dir` has TFDS' copy, and "official".

    Args:
        set_name: name of the dataset.
        raw_dir: folder of the raw data; None if not given.
        data_dir: folder of prepared datasets.
        prepared: layouts the dataset is already prepared from.

    Raises:
        ValueError: if a folder holds several layouts.
    """
    own = [] if raw_dir is None else _layouts_in(raw_dir, glob.escape(set_name))
    others = [] if raw_dir is None else _layouts_in(raw_dir, "*")
    copies = ["tfds"] if "tfds" in _layouts_in(data_dir, glob.escape(set_name)) else []
    for folder, found in ((raw_dir, own), (data_dir, prepared), (raw_dir, others), (data_dir, copies)):
        if len(found) > 1:
            raise ValueError(
                f"layout: {folder} holds {set_name!r} in several layouts: {', '.join(found)}. Choose one, "
                f"such as --config.data.options.layout={next(iter(found))}."
            )
        if found:
            return next(iter(found))
    return OFFICIAL.name


def _layouts_in(folder: Path, set_pattern: str) -> list[str]:
    """Returns the layouts that a folder has signs of."""
    return [name for name in LAYOUTS if any(True for sign in _signs(name, set_pattern) for _ in folder.glob(sign))]
