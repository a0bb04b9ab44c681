"""The layouts in which Visual Decathlon, or a set of one's own, comes."""

import glob
from collections.abc import Collection
from pathlib import Path

from mtan_jax.data.raw.raw_layout import RawLayout

DATA_FOLDERS = ("decathlon-1.0-data", "decathlon-1.0/data")  # the data by themselves, or extracted into the devkit
ANNOTATION_FOLDERS = ("annotations", "decathlon-1.0/annotations")
WITHOUT = "configs/mini_decathlon.py"


def _signs(layout: str, set_name: str) -> tuple[str, ...]:
    """Patterns of paths that tell that a set is there in a layout."""
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
        "decathlon-1.0-data/SET/test/*.jpg    (may be left out)",
        "annotations/SET_{train,val,test_stripped}.json    or decathlon-1.0/annotations/...",
    ),
    source=(
        "https://www.robots.ox.ac.uk/~vgg/decathlon (devkit and data; the tar file of each set extracted too; ImageNet "
        "from https://www.image-net.org, after registration)"
    ),
    signs=_signs("official", "*"),
    without=WITHOUT,
)

FOLDERS = RawLayout(
    dataset="Visual Decathlon",
    name="folders",
    expected=(
        "SET/{train,val}/CLASS/*.{jpg,jpeg,png}    or other picture formats that Pillow reads",
        "SET/test/CLASS/*.{jpg,jpeg,png}    or, where the classes are unknown, SET/test/* (may be left out)",
    ),
    source="pictures of one's own, or a part of Visual Decathlon",
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
    """Returns the layout of one of the ten sets.

    It is the one in which `raw_dir` holds the set, or else the one that the set is prepared from, or else the one of
    the other sets in `raw_dir`, or "tfds" where `data_dir` holds TFDS' copy, or "official".

    Args:
        set_name: of the set.
        raw_dir: where the raw data lie; None where not given.
        data_dir: where prepared datasets live.
        prepared: layouts from which the set is prepared there already.

    Raises:
        ValueError: the folders hold more than one layout.
    """
    here = [] if raw_dir is None else _layouts_in(raw_dir, glob.escape(set_name))
    others = [] if raw_dir is None else _layouts_in(raw_dir, "*")
    copies = ["tfds"] if "tfds" in _layouts_in(data_dir, glob.escape(set_name)) else []
    for place, found in ((raw_dir, here), (data_dir, prepared), (raw_dir, others), (data_dir, copies)):
        if len(found) > 1:
            raise ValueError(
                f"layout: {place} holds the set {set_name!r} in several layouts: {', '.join(found)}. Choose one, "
                f"such as --config.data.options.layout={next(iter(found))}"
            )
        if found:
            return next(iter(found))
    return OFFICIAL.name


def _layouts_in(folder: Path, set_pattern: str) -> list[str]:
    """The layouts of which a folder has signs."""
    return [name for name in LAYOUTS if any(True for sign in _signs(name, set_pattern) for _ in folder.glob(sign))]
