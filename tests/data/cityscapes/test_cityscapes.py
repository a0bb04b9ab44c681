"""The builder: arguments, variants, the authors' layout, missing raw data, and prepared datasets."""

import re
import shutil
from typing import Any

import numpy as np
import pytest
from helpers.cityscapes_release import (
    SIZE,
    assert_equal_examples,
    builder,
    four_scenes,
    prepared,
    random_scene,
    write_release,
)

from mtan_jax.data.errors import RawDataError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "zips"}, "layout: got 'zips'; expected one of 'auto', 'release', 'authors'"),
        ({"num_classes": 8}, "num_classes: got 8; expected one of 2, 7, 19"),
        ({"depth": "metres"}, "depth: got 'metres'; expected one of 'disparity', 'inverse_depth'"),
        ({"category_ids": "some"}, "category_ids: got 'some'; expected one of 'all', 'evaluated'"),
        ({"image_size": (0, 256)}, r"image_size: got \(0, 256\); expected height and width"),
    ],
)
def test_arguments_are_checked(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        builder(tmp_path, **options)


def test_variants_do_not_mix(tmp_path):
    options: list[dict[str, Any]] = [
        {"num_classes": 2},
        {"num_classes": 7},
        {"num_classes": 7, "category_ids": "evaluated"},
        {"depth": "inverse_depth"},
        {"layout": "authors"},
        {"image_size": (256, 512)},
    ]
    folders = {builder(tmp_path, **option).data_dir for option in options}
    assert len(folders) == len(options)


def test_data_info(tmp_path):
    info = builder(tmp_path, depth="inverse_depth").data_info
    assert (info.name, info.image_size, info.inverse_depth, info.depth_unit) == ("cityscapes", SIZE, True, "1/m")
    assert info.classes == ("flat", "construction", "object", "nature", "sky", "human", "vehicle")


# The authors' layout


def write_authors(root, size=SIZE, counts=(3, 2)):
    rng = np.random.default_rng(0)
    for split, count in zip(("train", "val"), counts, strict=True):
        for number in range(count):
            arrays = {
                "image": rng.uniform(0, 1, (*size, 3)),
                "label_7": rng.integers(-1, 7, size).astype(np.float64),
                "label_2": rng.integers(-1, 2, size).astype(np.float64),
                "depth": rng.uniform(0, 0.49, (*size, 1)),
            }
            for folder, array in arrays.items():
                path = root / split / folder / f"{number}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, array)


def test_authors_arrays_are_kept(tmp_path):
    write_authors(tmp_path / "raw", counts=(11, 1))
    data = prepared(tmp_path, layout="authors", num_classes=2)
    assert [example["id"] for example in data["train"]] == [f"cityscapes/train/{i}".encode() for i in range(11)]
    for number, example in enumerate(data["train"]):
        for key, folder in {"image": "image", "semantic": "label_2", "depth": "depth"}.items():
            raw = np.load(tmp_path / "raw" / "train" / folder / f"{number}.npy")
            np.testing.assert_array_equal(example[key], raw.astype(np.int8 if key == "semantic" else np.float32))


@pytest.mark.parametrize(
    ("folder", "spoil", "message"),
    [
        ("label_7", lambda a: np.where(a == 3, 7, a), "label 7.0 at row .* expected whole numbers from -1 to 6"),
        ("label_7", lambda a: a + 0.5, "whole numbers"),
        ("depth", lambda a: np.where(a < 0.1, np.nan, a), "depth nan at row"),
        ("depth", lambda a: np.where(a < 0.1, np.inf, a), "depth inf at row"),
        ("depth", lambda a: a - 0.1, "depth -0.0.* expected finite values, 0 where undefined"),
        ("depth", lambda a: a.repeat(2, 2), r"shape \[64, 128, 2\]; expected \[h, w, 1\] or \[1, h, w\] or \[h, w\]"),
        ("depth", lambda a: a.repeat(2, 0), "128x128 pixels, but the image has 64x128"),
        ("image", lambda a: a * 255, "image holds .* expected values from 0 to 1"),
        ("image", lambda a: a.astype("U3"), "expected numbers"),
        ("image", lambda a: np.array([None]), "truncated or damaged array"),
    ],
)
def test_authors_arrays_are_checked(tmp_path, folder, spoil, message):
    write_authors(tmp_path / "raw")
    path = tmp_path / "raw" / "val" / folder / "1.npy"
    good = path.read_bytes()
    np.save(path, spoil(np.load(path)), allow_pickle=True)
    data = builder(tmp_path, layout="authors")
    with pytest.raises(RawDataError, match=f"{re.escape(str(path))}.*{message}"):
        data.prepare()
    assert not data.is_prepared()
    path.write_bytes(good)
    assert len(prepared(tmp_path, layout="authors")["val"]) == 2


def test_authors_truncated_array_is_named(tmp_path):
    write_authors(tmp_path / "raw")
    path = tmp_path / "raw" / "train" / "depth" / "2.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RawDataError, match=f"{re.escape(str(path))}: truncated or damaged array"):
        builder(tmp_path, layout="authors").prepare()


def test_authors_counts_must_agree(tmp_path):
    write_authors(tmp_path / "raw")
    (tmp_path / "raw" / "train" / "depth" / "1.npy").unlink()
    with pytest.raises(
        RawDataError, match=r"train/depth/1.npy is missing: train/depth holds 2 arrays.* have 3 numbers"
    ):
        builder(tmp_path, layout="authors").prepare()


def test_authors_layout_has_disparity_only(tmp_path):
    with pytest.raises(
        ValueError, match="depth: got 'inverse_depth'; the layout 'authors' has no cameras and only holds 'disparity'"
    ):
        builder(tmp_path, layout="authors", depth="inverse_depth")


# Missing raw data


@pytest.mark.parametrize("raw", [None, "nowhere", "empty"])
@pytest.mark.parametrize("layout", ["release", "authors"])
def test_missing_raw_data(tmp_path, raw, layout):
    (tmp_path / "empty").mkdir()
    raw_dir = None if raw is None else str(tmp_path / raw)
    with pytest.raises(RawDataError) as error:
        builder(tmp_path, raw_dir=raw_dir, layout=layout).prepare()
    text = str(error.value)
    files = {
        "release": ["leftImg8bit_trainvaltest.zip", "*_gtFine_labelIds.png", "disparity_trainvaltest.zip"],
        "authors": ["{train,val}/image/I.npy", "{train,val}/label_7/I.npy", "{train,val}/depth/I.npy"],
    }[layout]
    source = {"release": "https://www.cityscapes-dataset.com", "authors": "https://github.com/lorenmt/mtan"}[layout]
    for part in [
        *files,
        source,
        "downloads/manual/cityscapes" if raw_dir is None else f"Looked in: {raw_dir} (",
        "--config.data.raw_dir",
        "configs/streets.py needs no raw data",
    ]:
        assert part in text
    assert "None" not in text
    assert not (tmp_path / "prepared").exists()


def test_wrong_layout_is_reported(tmp_path, release):
    with pytest.raises(RawDataError, match=r"holds the layout 'release': set --config.data.options.layout=release"):
        builder(tmp_path, layout="authors").prepare()
    write_authors(tmp_path / "authors")
    with pytest.raises(RawDataError, match=r"holds the layout 'authors': set --config.data.options.layout=authors"):
        builder(tmp_path, raw_dir=str(tmp_path / "authors"), layout="release").prepare()


# Prepared datasets


def test_prepared_dataset_needs_no_raw_data(tmp_path, release):
    first = prepared(tmp_path)
    shutil.rmtree(release)
    assert_equal_examples(first, prepared(tmp_path, raw_dir=None))
    assert_equal_examples(first, prepared(tmp_path))  # raw_dir no longer exists: the prepared dataset is used


def test_other_raw_files_are_not_ignored(tmp_path, release):
    prepared(tmp_path)
    shutil.move(release, tmp_path / "moved")
    builder(tmp_path, raw_dir=str(tmp_path / "moved")).prepare()  # the same files elsewhere
    write_release(release, [*four_scenes(), random_scene("val", "ulm", 9)])
    with pytest.raises(RawDataError, match=r"prepared from other files than those in .*raw") as error:
        builder(tmp_path).prepare()
    assert "--config.data.data_dir" in str(error.value)
    assert len(builder(tmp_path, raw_dir=None).as_data_source("val")) == 1
