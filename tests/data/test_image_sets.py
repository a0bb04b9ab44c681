"""Storage and channel statistics of sets of labelled images."""

import io
import os
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers.decathlon_release import write_folders
from PIL import Image

from mtan_jax.data.decathlon import DecathlonSet
from mtan_jax.data.errors import RawDataError
from mtan_jax.data.image_sets import ImageSetBuilder, channel_statistics
from mtan_jax.data.raw.image_files import read_rgb


class Pictures(ImageSetBuilder):
    """A set made of the given pictures."""

    VERSION = "1.0.0"

    def __init__(self, *images, data_dir="nowhere"):
        self._images = images
        super().__init__(set_name="set", data_dir=data_dir, raw_dir=None, variant="set")

    def class_names(self):
        return ("a",)

    def split_sizes(self):
        return {"train": len(self._images), "val": 1}

    def example(self, split, index):
        return {"id": f"set/{split}/{index}", "image": self._images[index], "label": 0}


def statistics(*images):
    """Computes the channel statistics of "train"."""
    builder = Pictures(*images)
    parts = [builder.summarize("train", builder.checked(builder.example("train", i))) for i in range(len(images))]
    return channel_statistics(sum(parts))


def encode(array, form="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def awkward_files():
    """Picture files that plain decoders read differently, some with a wrong suffix, and their correct pixels."""
    stored = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    grey = np.array([[0, 256, 65535]], np.uint16)
    clear = np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], np.uint8)
    return {
        "rotated.png": (encode(stored, exif=exif), stored[::-1, ::-1]),
        "deep.png": (encode(grey), np.repeat([[[0], [1], [255]]], 3, axis=-1)),
        "clear.png": (encode(clear), [[[255, 255, 255], [10, 20, 30]]]),
        "webp.jpg": (encode(stored, "WEBP", lossless=True), stored),
    }


def test_awkward_pictures_are_stored_as_every_decoder_reads_them(tmp_path):
    files = awkward_files()
    write_folders(tmp_path / "raw", "dtd", {"train": {"a": 1}, "val": {"a": 1}})
    folder = tmp_path / "raw" / "dtd" / "train" / "b"
    folder.mkdir()
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    builder = DecathlonSet(
        set_name="dtd", layout="folders", raw_dir=str(tmp_path / "raw"), data_dir=str(tmp_path / "prepared")
    )
    builder.prepare()
    as_stored = {"image": tfds.decode.SkipDecoding()}
    found = {}
    plainly = builder.as_data_source("train")  # decoded by TFDS
    for example, decoded in zip(builder.as_data_source("train", decoders=as_stored), plainly, strict=True):
        name = example["id"].decode().split("/")[-1]
        found[name] = decoded["image"]
        np.testing.assert_array_equal(read_rgb(example["image"], name), decoded["image"])
    assert found.keys() == {"000001.jpg", *files}
    for name, (_, pixels) in files.items():
        np.testing.assert_array_equal(found[name], pixels, err_msg=name)


def test_undecodable_names_become_ids_that_can_be_stored():
    picture = encode(np.zeros((2, 2, 3), np.uint8))
    example = {"id": os.fsdecode(b"set/train/caf\xe9.png"), "image": picture, "label": 0}
    checked = Pictures().checked(example)
    assert checked == {"id": r"set/train/caf\xe9.png", "image": picture, "label": 0}
    checked["id"].encode("utf-8")


def test_statistics_of_the_channels():
    first = np.zeros((1, 2, 3), np.uint8)
    first[0, 1] = (255, 0, 51)
    second = np.array([[[0, 255, 0], [0, 255, 0]]], np.uint8)
    mean, std = statistics(encode(first), encode(second))
    np.testing.assert_allclose(mean, [1 / 4, 2 / 4, 0.2 / 4])
    np.testing.assert_allclose(std, [np.sqrt(3) / 4, 1 / 2, np.sqrt(0.04 / 4 - 0.05**2)])


def test_statistics_are_of_the_pixels_as_they_are_meant():
    for data, pixels in awkward_files().values():
        mean, _ = statistics(data)
        np.testing.assert_allclose(mean, np.mean(pixels, axis=(0, 1)) / 255)


def test_statistics_are_kept_with_the_prepared_set(tmp_path):
    images = [encode(np.full((2, 2, 3), value, np.uint8)) for value in (0, 51)]
    builder = Pictures(*images, data_dir=str(tmp_path))
    builder.prepare()
    np.testing.assert_allclose(builder.image_set.mean, 0.1)
    np.testing.assert_allclose(builder.image_set.std, 0.1)


def test_all_unreadable_pictures_are_named_at_once(tmp_path):
    good = encode(np.zeros((2, 2, 3), np.uint8))
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    lines = [rf"{re.escape(str(tmp_path / name))}: cannot be read as a picture: .*" for name in ("a.png", "b.png")]
    pictures = [good, str(tmp_path / "a.png"), good, str(tmp_path / "b.png")]
    with pytest.raises(RawDataError, match="^" + r"\n".join(lines) + "$"):
        Pictures(*pictures, data_dir=str(tmp_path)).prepare()
