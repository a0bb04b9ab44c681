"""Detection of raw layouts, and suggestions of the right folder, with NYUv2 and Cityscapes."""

import os

import pytest
from helpers import npy_release
from helpers.cityscapes_release import write_release

from mtan_jax.data import Cityscapes, NYUv2
from mtan_jax.data.errors import RawDataError
from mtan_jax.data.nyuv2.layouts import AUTHORS, RELEASE
from mtan_jax.data.raw.raw_layout import choose_layout

SIZE = (64, 128)


def write(folder, name, layout):
    """Writes a small dataset, or the files by which it is detected."""
    if layout == "authors":
        npy_release.write(folder, SIZE, (1, 1), lambda arrays: arrays | {"label_7": arrays["label"].clip(-1, 6)})
    elif name == "nyuv2":
        folder.mkdir(exist_ok=True)
        (folder / "nyu_depth_v2_labeled.mat").write_bytes(b"")
    else:
        depth = npy_release.draw(SIZE, 0)["depth"].astype("f4") / 100
        labels = npy_release.draw(SIZE, 0, 7)["label"].astype("i1")
        scene = {"image": npy_release.draw(SIZE, 0)["image"], "semantic": labels, "inverse_depth": depth}
        scene["image"] = (scene["image"] * 255).astype("u1")
        camera = {"fx": 2000.0, "baseline": 0.2}
        write_release(folder, [scene | {"split": s, "city": "ulm", "camera": camera} for s in ("train", "val")])


def make(name, tmp_path, **options):
    folders = {"data_dir": str(tmp_path / "prepared"), "raw_dir": str(tmp_path / "raw")}
    return {"nyuv2": NYUv2, "cityscapes": Cityscapes}[name](**{"image_size": SIZE, **folders, **options})


def variant(data):
    return os.fspath(data.data_dir).rpartition("-")[2].split("/")[0]


@pytest.mark.parametrize("name", ["nyuv2", "cityscapes"])
@pytest.mark.parametrize("layout", ["release", "authors"])
def test_layout_is_told_by_the_folders(tmp_path, name, layout):
    write(tmp_path / "raw", name, layout)
    assert variant(make(name, tmp_path)) == layout
    data = make(name, tmp_path)
    if (name, layout) == ("nyuv2", "release"):
        with pytest.raises(RawDataError, match=r"nyu_depth_v2_labeled.mat: truncated or damaged"):  # it is empty here
            data.prepare()
    else:
        data.prepare()
        assert data.as_data_source("train")[0]["image"].shape == (*SIZE, 3)


@pytest.mark.parametrize("name", ["nyuv2", "cityscapes"])
def test_layout_without_raw_data_is_the_prepared_one(tmp_path, name):
    write(tmp_path / "raw", name, "authors")
    make(name, tmp_path).prepare()
    for raw_dir in (None, str(tmp_path / "gone")):
        data = make(name, tmp_path, raw_dir=raw_dir)
        assert data.is_prepared()
        assert variant(data) == "authors"
        # Options that only the other layout supports determine the layout.
        other = {"num_classes": 40} if name == "nyuv2" else {"depth": "inverse_depth"}
        assert variant(make(name, tmp_path, raw_dir=raw_dir, **other)) == "release"


def test_layout_without_any_data_is_the_release(tmp_path):
    assert variant(make("nyuv2", tmp_path, raw_dir=None)) == "release"
    with pytest.raises(RawDataError, match=r"There is no such folder(.|\n)*layout 'release'") as caught:
        make("nyuv2", tmp_path).prepare()
    assert "Another layout that can be read: 'authors' ({train,val}/image/*.npy" in str(caught.value)


@pytest.mark.parametrize("name", ["nyuv2", "cityscapes"])
def test_two_layouts_in_one_folder_are_ambiguous(tmp_path, name):
    for layout in ("release", "authors"):
        write(tmp_path / "raw", name, layout)
    message = "raw holds the layouts 'release' and 'authors'; choose one, as in --config.data.options.layout=release"
    with pytest.raises(ValueError, match=message):
        make(name, tmp_path)
    assert variant(make(name, tmp_path, layout="authors")) == "authors"


def test_two_prepared_layouts_are_ambiguous(tmp_path):
    with pytest.raises(ValueError, match="prepared from the layouts 'release' and 'authors'; choose one"):
        choose_layout((RELEASE, AUTHORS), None, lambda name: True)
    assert choose_layout((RELEASE, AUTHORS), tmp_path, lambda name: name == "authors") == "authors"


def test_stray_files_tell_no_layout(tmp_path):
    write(tmp_path / "raw", "nyuv2", "release")
    path = tmp_path / "raw" / "train" / "image" / "._0.npy"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert variant(make("nyuv2", tmp_path)) == "release"


# Folders one level too high or too low


@pytest.mark.parametrize(
    ("name", "layout", "given"),
    [
        ("nyuv2", "authors", ".."),
        ("nyuv2", "authors", "../.."),
        ("nyuv2", "authors", "train"),
        ("nyuv2", "authors", "train/image"),
        ("nyuv2", "authors", "trian"),
        ("nyuv2", "release", "nyu_depth_v2_labeled.mat"),
        ("nyuv2", "release", ".."),
        ("cityscapes", "release", "leftImg8bit"),
        ("cityscapes", "release", "leftImg8bit/train/ulm"),
        ("cityscapes", "release", ".."),
        ("cityscapes", "authors", "val/depth"),
    ],
)
def test_the_right_folder_is_named_where_another_level_was_given(tmp_path, name, layout, given):
    folder = tmp_path / "downloads" / "set" / "data"
    folder.parent.mkdir(parents=True)
    write(folder, name, layout)
    raw_dir = os.path.normpath(folder / given)
    with pytest.raises(RawDataError) as error:
        make(name, tmp_path, raw_dir=raw_dir).prepare()
    assert f"This folder looks right: set --config.data.raw_dir={folder}.\n" in str(error.value)
    assert f"layout {layout!r}" in str(error.value)
    assert not (tmp_path / "prepared").exists()


def test_zips_extracted_into_folders_of_their_own_are_named(tmp_path):
    for part in ("leftImg8bit", "gtFine"):
        (tmp_path / "raw" / f"{part}_trainvaltest" / part / "train").mkdir(parents=True)
    with pytest.raises(RawDataError) as error:
        make("cityscapes", tmp_path).prepare()
    folders = ", ".join(str(tmp_path / "raw" / f"{part}_trainvaltest") for part in ("gtFine", "leftImg8bit"))
    assert f"These folders each appear to hold a part: {folders}. Name one that holds all parts." in str(error.value)
