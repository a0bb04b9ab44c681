"""The layouts in which Visual Decathlon, or a set of one's own, comes."""

from mtan_jax.data.raw_layout import RawLayout

DATA_FOLDERS = ("decathlon-1.0-data", "decathlon-1.0/data")  # the data by themselves, or extracted into the devkit
ANNOTATION_FOLDERS = ("annotations", "decathlon-1.0/annotations")
WITHOUT = "configs/mini_decathlon.py"

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
    signs=tuple(f"{folder}/*/train" for folder in DATA_FOLDERS),
    without=WITHOUT,
)

FOLDERS = RawLayout(
    dataset="Visual Decathlon",
    name="folders",
    expected=(
        "SET/{train,val}/CLASS/*.{jpg,jpeg,png}",
        "SET/test/CLASS/*.{jpg,jpeg,png}    or, where the classes are unknown, SET/test/* (may be left out)",
    ),
    source="pictures of one's own, or a part of Visual Decathlon",
    signs=("*/train",),
    without=WITHOUT,
)

TFDS = RawLayout(
    dataset="Visual Decathlon",
    name="tfds",
    expected=("visual_domain_decathlon/SET/VERSION/    in array_record files",),
    source="tfds build visual_domain_decathlon/SET --file_format=array_record    (needs TensorFlow)",
    signs=("visual_domain_decathlon/*/*/features.json",),
    without=WITHOUT,
)

LAYOUTS = {layout.name: layout for layout in (OFFICIAL, FOLDERS, TFDS)}
