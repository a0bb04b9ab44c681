"""The MTAN authors' layout, read through the builder of NYUv2."""

import logging
import os
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from helpers import npy_release

from mtan_jax.data import DATASETS, Cityscapes
from mtan_jax.data.errors import RawDataError
from mtan_jax.data.nyuv2 import NYUv2
from mtan_jax.data.nyuv2.layouts import AUTHORS, RELEASE
from mtan_jax.data.raw import npy_layout

SIZE = (72, 96)
CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def prepared(tmp_path, split="train", **options):
    data = builder(tmp_path, **options)
    data.prepare()
    return list(data.as_data_source(split))


def builder(tmp_path, **options):
    folders = {"data_dir": str(tmp_path / "prepared"), "raw_dir": str(tmp_path / "raw")}
    return NYUv2(**{"layout": "authors", "image_size": SIZE, **folders, **options})


def reader(raw_dir, image_size=SIZE):
    folders = {kind: folder for folder, kind in npy_release.KINDS.items()}
    return npy_layout.NpyLayout(AUTHORS, raw_dir, folders, 13, image_size, RELEASE)


def assert_kept(example, arrays, **tolerance):
    for folder, kind in npy_release.KINDS.items():
        stored = arrays[folder].astype(np.int8 if kind == "semantic" else np.float32)
        assert example[kind].dtype == stored.dtype
        np.testing.assert_allclose(example[kind], stored, **({"rtol": 0, "err_msg": kind} | tolerance))


def channels_first(arrays):
    return {folder: np.moveaxis(array, -1, 0) if array.ndim == 3 else array[None] for folder, array in arrays.items()}


def without_channel_of_depth(arrays):
    return arrays | {"depth": arrays["depth"][..., 0]}


def with_channel_of_labels(arrays):
    return arrays | {"label": arrays["label"][..., None]}


@pytest.mark.parametrize("change", [channels_first, without_channel_of_depth, with_channel_of_labels])
def test_axes_in_another_order_are_recognized(tmp_path, change):
    npy_release.write(tmp_path / "raw", SIZE, change=change)
    for number, example in enumerate(prepared(tmp_path)):
        assert_kept(example, npy_release.draw(SIZE, [0, number]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_any_floating_type_is_read(tmp_path, dtype):
    npy_release.write(tmp_path / "raw", SIZE, change=lambda arrays: {k: v.astype(dtype) for k, v in arrays.items()})
    half = {"rtol": 1e-3, "atol": 1e-6} if dtype is np.float16 else {}  # float16 has 11 bits
    assert_kept(prepared(tmp_path)[0], npy_release.draw(SIZE, [0, 0]), **half)


def test_images_and_labels_of_uint8_are_recognized(tmp_path):
    def change(arrays):
        return arrays | {"image": np.uint8(arrays["image"] * 255), "label": arrays["label"].astype(np.int8).view("u1")}

    npy_release.write(tmp_path / "raw", SIZE, change=change)
    arrays = npy_release.draw(SIZE, [0, 0])
    assert (arrays["label"] == -1).any()
    assert_kept(prepared(tmp_path)[0], arrays | {"image": np.uint8(arrays["image"] * 255) / 255})


@pytest.mark.parametrize("shape", [(*SIZE, 4), SIZE, (2, *SIZE, 3), (0, 96, 3)])
def test_other_shapes_are_named(tmp_path, shape):
    npy_release.write(tmp_path / "raw", SIZE)
    path = tmp_path / "raw" / "train" / "image" / "2.npy"
    np.save(path, np.zeros(shape))
    message = f"{re.escape(str(path))}: got an array of shape {re.escape(str(list(shape)))}"
    with pytest.raises(RawDataError, match=message):
        builder(tmp_path).prepare()


# Sizes


def test_another_image_size_resizes(tmp_path, caplog):
    npy_release.write(tmp_path / "raw", SIZE)
    with caplog.at_level(logging.INFO, "mtan_jax"):
        example = prepared(tmp_path, image_size=(36, 48))[0]
    assert "0.npy is 72x96 pixels: resizing to 36x48" in caplog.text
    arrays = npy_release.draw(SIZE, [0, 0])
    # Nearest pixels: Pillow chooses the second of two equally near pixels.
    for folder in ("label", "depth", "normal"):
        np.testing.assert_array_equal(
            example[npy_release.KINDS[folder]], arrays[folder][1::2, 1::2].astype(np.float32), err_msg=folder
        )
    # A triangle filter that shrinks by 2 reaches over 4 pixels with these weights.
    image = np.float32(arrays["image"])
    kernel = np.array([1, 3, 3, 1]) / 8
    rows = sum(weight * image[1 + i : 67 + i : 2] for i, weight in enumerate(kernel))
    expected = sum(weight * rows[:, 1 + i : 91 + i : 2] for i, weight in enumerate(kernel))
    np.testing.assert_allclose(example["image"][1:34, 1:46], expected, atol=1e-6)


def test_arrays_of_the_size_asked_for_are_not_resized(tmp_path, caplog):
    npy_release.write(tmp_path / "raw", SIZE)
    with caplog.at_level(logging.INFO, "mtan_jax"):
        examples = prepared(tmp_path)
    assert "resizing" not in caplog.text
    assert_kept(examples[2], npy_release.draw(SIZE, [0, 2]))


def test_an_example_of_two_sizes_is_an_error(tmp_path):
    npy_release.write(tmp_path / "raw", SIZE)
    path = tmp_path / "raw" / "val" / "label" / "1.npy"
    np.save(path, np.zeros((36, 48)))
    with pytest.raises(RawDataError, match=f"{re.escape(str(path))}: 36x48 pixels, but the image has 72x96"):
        builder(tmp_path).prepare()


def settings(name):
    """The builder's options in a configuration's smoke run and in its full run."""
    get_config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]
    return [get_config(argument).data.options.to_dict() for argument in ("smoke", None)]


@pytest.mark.parametrize(("name", "stored"), [("nyuv2", (288, 384)), ("cityscapes", (128, 256))])
def test_smoke_runs_take_the_authors_layout(tmp_path, name, stored):
    smoke, whole = settings(name)
    assert stored == whole["image_size"] != smoke["image_size"]
    npy_release.write(
        tmp_path / "raw", stored, (1, 1), lambda arrays: arrays | {"label_7": np.minimum(arrays["label"], 6)}
    )
    options = smoke | {"layout": "authors"}
    data = DATASETS[name](data_dir=str(tmp_path / "prepared"), raw_dir=str(tmp_path / "raw"), **options)
    data.prepare()
    assert [data.as_data_source(split)[0]["image"].shape for split in npy_release.SPLITS] == [
        (*smoke["image_size"], 3)
    ] * 2


def test_cityscapes_of_256x512_pixels_is_read_at_128x256(tmp_path):
    npy_release.write(
        tmp_path / "raw", (256, 512), (1, 1), lambda arrays: arrays | {"label_7": np.minimum(arrays["label"], 6)}
    )
    data = Cityscapes(data_dir=str(tmp_path / "prepared"), raw_dir=str(tmp_path / "raw"), layout="authors")
    data.prepare()
    example = data.as_data_source("val")[0]
    depth = np.load(tmp_path / "raw" / "val" / "depth" / "0.npy")
    np.testing.assert_array_equal(example["depth"], depth[1::2, 1::2].astype(np.float32))


# Listing


def test_stray_files_are_skipped(tmp_path):
    npy_release.write(tmp_path / "raw", SIZE, counts=(2, 1))
    folder = tmp_path / "raw" / "train" / "image"
    for name in ("._0.npy", ".ipynb_checkpoints/0-checkpoint.npy", "0 copy.npy", "Thumbs.db", "7.npy/"):
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            path.write_bytes(b"no array")
    assert len(prepared(tmp_path)) == 2
    assert not any(name in path for path in reader(tmp_path / "raw").raw_files() for name in ("._", "copy", "Thumbs"))


def test_other_files_are_counted_in_one_line(tmp_path, caplog):
    # A past bug: arrays with mistyped names were skipped silently.
    npy_release.write(tmp_path / "raw", SIZE, counts=(2, 1))
    reader(tmp_path / "raw").check()
    (tmp_path / "raw" / "train" / "image" / "._0.npy").write_bytes(b"")
    assert not caplog.records
    (tmp_path / "raw" / "val" / "depth" / "7.npz").write_bytes(b"")
    reader(tmp_path / "raw").check()
    for name in ("0 (copy).npy", "list.txt"):
        (tmp_path / "raw" / "train" / "image" / name).write_bytes(b"")
    reader(tmp_path / "raw").check()
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        "skipped 1 file or folder that is not an array named by a number, such as val/depth/7.npz",
        "skipped 3 files and folders that are not arrays named by a number, such as train/image/0 (copy).npy",
    ]


def test_folder_of_stray_files_alone_holds_no_arrays(tmp_path):
    for split in npy_release.SPLITS:
        for folder in npy_release.KINDS:
            path = tmp_path / "raw" / split / folder / "._0.npy"
            path.parent.mkdir(parents=True)
            path.write_bytes(b"")
    with pytest.raises(RawDataError, match=r"train/image holds no arrays named by a number, such as 0.npy"):
        builder(tmp_path).prepare()


def test_numbers_with_leading_zeros(tmp_path):
    npy_release.write(tmp_path / "raw", SIZE, counts=(11, 1))
    for path in (tmp_path / "raw").glob("train/*/*.npy"):
        path.rename(path.with_name(f"{int(path.stem):04d}.npy"))
    assert [example["id"] for example in prepared(tmp_path)] == [b"nyuv2/train/%d" % i for i in range(11)]
    (tmp_path / "raw" / "train" / "depth" / "3.npy").write_bytes(b"")
    with pytest.raises(RawDataError, match=r"depth: 0003.npy and 3.npy have the same number"):
        reader(tmp_path / "raw").check()


def test_examples_are_read_at_random_without_listing_anew(tmp_path, monkeypatch):
    npy_release.write(tmp_path / "raw", SIZE, counts=(11, 2))
    raw, listed, scandir = reader(tmp_path / "raw"), [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    for index in (10, 0, 3):
        example = raw.example("train", index)
        assert example["id"] == f"nyuv2/train/{index}"  # sorted by number: 10 is last
        assert_kept(example, npy_release.draw(SIZE, [0, index]))
    assert raw.split_sizes() == {"train": 11, "val": 2}
    assert len(listed) == 8  # 4 folders of 2 splits, once


def test_raw_files_are_listed_in_order_through_links(tmp_path):
    npy_release.write(tmp_path / "elsewhere", SIZE, counts=(11, 2))
    (tmp_path / "raw").mkdir()
    for split in npy_release.SPLITS:
        (tmp_path / "raw" / split).symlink_to(tmp_path / "elsewhere" / split)
    raw = reader(tmp_path / "raw")
    paths = list(raw.raw_files())
    assert len(paths) == len(set(paths)) == 4 * (11 + 2)
    assert paths[:11] == [str(tmp_path / "raw" / "train" / "image" / f"{i}.npy") for i in range(11)]
    (tmp_path / "elsewhere" / "val" / "image" / "2.npy").write_bytes(b"")
    assert len(list(raw.raw_files())) == len(paths) + 1  # the next call sees what was added
    assert list(reader(None).raw_files()) == list(reader(tmp_path / "nowhere").raw_files()) == []
