"""The NYUv2 builder and the reader of its official release."""

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import npy_release
from helpers.nyuv2_release import MAT, frames, write_mat, write_splits
from PIL import Image

from mtan_jax.data.errors import RawDataError
from mtan_jax.data.nyuv2 import NYUv2, classes

SHARED = Path(__file__).resolve().parents[4] / "shared"
SIZE = (72, 96)


@pytest.fixture(scope="module")
def stored_release(tmp_path_factory):
    root = tmp_path_factory.mktemp("stored")
    write_mat(root, frames())
    return root


@pytest.fixture
def release(tmp_path, stored_release):
    return shutil.copytree(stored_release, tmp_path / "raw")


def builder(tmp_path, **options):
    options = {"data_dir": str(tmp_path / "prepared"), "raw_dir": str(tmp_path / "raw"), "image_size": SIZE} | options
    return NYUv2(**options)


def examples(data, split):
    return (data.example(split, index) for index in range(data.split_sizes()[split]))


# The release


def test_frames_are_read_upright_and_keep_their_numbers(tmp_path, release):
    data = builder(tmp_path, image_size=(480, 640), num_classes=40)
    data.prepare()
    train, val = (list(data.as_data_source(split)) for split in ("train", "val"))
    assert [example["id"] for example in train] == [b"nyuv2/0001", b"nyuv2/0002", b"nyuv2/0004"]
    assert [example["id"] for example in val] == [b"nyuv2/0003", b"nyuv2/0005"]
    for number, example in zip((1, 2, 4, 3, 5), [*train, *val], strict=True):
        np.testing.assert_array_equal(example["image"], frames()["images"][number - 1])
        np.testing.assert_array_equal(example["depth"][..., 0], frames()["depths"][number - 1])
        assert example["labelled"] == {"semantic": True, "depth": True, "normal": True}


# Some of the 894 labels from the published list, with their class among 40 and among 13.
ROWS = {
    "unlabelled": (0, None, None),
    "wall": (21, "wall", "wall"),
    "floor": (11, "floor", "floor"),
    "ceiling": (4, "ceiling", "ceiling"),
    "chair": (5, "chair", "chair"),
    "table": (19, "table", "table"),
    "door": (28, "door", "wall"),
    "cabinet": (3, "cabinet", "furniture"),
    "sink": (24, "sink", "objects"),
}


@pytest.mark.parametrize(("num_classes", "column"), [(40, 1), (13, 2)])
def test_class_maps(tmp_path, release, num_classes, column):
    data = builder(tmp_path, num_classes=num_classes, image_size=(480, 640))
    names = data.data_info.classes
    assert len(names) == num_classes == len(np.unique(data.data_info.palette, axis=0))
    labels = frames()["labels"]
    semantic = np.stack([example["semantic"] for example in examples(data, "val")])
    labels = labels[[2, 4]]
    for name, row in ROWS.items():
        expected = -1 if row[column] is None else names.index(row[column])
        assert set(np.unique(semantic[labels == row[0]])) == {expected}, name
    assert set(np.unique(semantic)) == set(range(-1, num_classes))
    assert ((semantic == -1) == (labels == 0)).all()


def test_resizing(tmp_path, release):
    small = builder(tmp_path, image_size=(240, 320)).example("train", 0)
    full = builder(tmp_path, image_size=(480, 640)).example("train", 0)
    # Pillow takes the second of the two pixels equally near to the centre.
    for key in ("semantic", "depth", "normal"):
        np.testing.assert_array_equal(small[key], full[key][1::2, 1::2])
    mean = full["image"].reshape(240, 2, 320, 2, 3).mean((1, 3))
    assert np.abs(small["image"] - mean).mean() < 1
    assert small["depth"].shape == (240, 320, 1)


def test_depth_and_normals_are_undefined_together(tmp_path):
    arrays = frames()
    arrays["depths"][:, 100:200, 50:300] = 0
    write_mat(tmp_path / "raw", arrays)
    for example in examples(builder(tmp_path), "val"):
        undefined = example["depth"][..., 0] == 0
        assert 0 < undefined.mean() < 0.5
        np.testing.assert_array_equal((example["normal"] == 0).all(-1), undefined)
        np.testing.assert_allclose(np.linalg.norm(example["normal"][~undefined], axis=-1), 1, rtol=1e-5)


def test_official_split():
    split = classes.official_split()
    assert {name: len(numbers) for name, numbers in split.items()} == {"train": 795, "val": 654}
    assert np.array_equal(np.sort(np.concatenate(list(split.values()))), np.arange(1, 1450))
    # The first frames of the published lists.
    assert split["train"][:6].tolist() == [3, 4, 5, 6, 7, 8]
    assert split["val"][:6].tolist() == [1, 2, 9, 14, 15, 16]


def test_official_split_is_used_for_all_frames(tmp_path):
    (tmp_path / "raw").mkdir()
    with h5py.File(tmp_path / "raw" / MAT, "w") as mat:  # arrays without content take no space
        mat.create_dataset("images", (1449, 3, 640, 480), np.uint8)
        mat.create_dataset("depths", (1449, 640, 480), np.float32)
        mat.create_dataset("labels", (1449, 640, 480), np.uint16)
    data = builder(tmp_path)
    data.check_raw()
    assert data.split_sizes() == {"train": 795, "val": 654}
    ids = [data.example("val", index)["id"] for index in range(2)]
    assert ids == ["nyuv2/0001", "nyuv2/0002"]


def test_other_raw_files_are_not_ignored(tmp_path, release):
    builder(tmp_path).prepare()
    shutil.copytree(release, tmp_path / "copy")
    builder(tmp_path, raw_dir=str(tmp_path / "copy")).prepare()
    write_mat(tmp_path / "copy", {key: array[:4] for key, array in frames().items()})
    with pytest.raises(RawDataError, match=r"prepared from other files than those in .*copy"):
        builder(tmp_path, raw_dir=str(tmp_path / "copy")).prepare()


# The authors' layout


write_authors = functools.partial(npy_release.write, size=SIZE)


def test_authors_arrays_are_kept(tmp_path):
    write_authors(tmp_path / "raw")
    data = builder(tmp_path, layout="authors")
    data.prepare()
    assert [example["id"] for example in data.as_data_source("val")] == [b"nyuv2/val/0", b"nyuv2/val/1"]
    for number, example in enumerate(data.as_data_source("train")):
        for key, folder in {"image": "image", "semantic": "label", "depth": "depth", "normal": "normal"}.items():
            raw = np.load(tmp_path / "raw" / "train" / folder / f"{number}.npy")
            np.testing.assert_array_equal(example[key], raw.astype(np.int8 if key == "semantic" else np.float32))


def test_authors_normals_are_checked(tmp_path):
    write_authors(tmp_path / "raw")
    path = tmp_path / "raw" / "val" / "normal" / "0.npy"
    np.save(path, np.load(path) * 2)
    with pytest.raises(RawDataError, match=f"{re.escape(str(path))}: normal holds .* expected values from -1 to 1"):
        builder(tmp_path, layout="authors").prepare()
    assert not builder(tmp_path, layout="authors").is_prepared()


def test_authors_layout_has_13_classes(tmp_path):
    with pytest.raises(ValueError, match="num_classes: got 40; the layout 'authors' only holds 13"):
        builder(tmp_path, layout="authors", num_classes=40)


# Errors


@pytest.mark.parametrize("raw", [None, "nowhere", "empty"])
@pytest.mark.parametrize("layout", ["release", "authors"])
def test_missing_raw_data(tmp_path, raw, layout):
    (tmp_path / "empty").mkdir()
    raw_dir = None if raw is None else str(tmp_path / raw)
    with pytest.raises(RawDataError) as error:
        builder(tmp_path, raw_dir=raw_dir, layout=layout).prepare()
    text = str(error.value)
    files = {"release": [MAT, "splits.mat"], "authors": ["{train,val}/label/I.npy", "{train,val}/normal/I.npy"]}[layout]
    source = {"release": "https://cs.nyu.edu", "authors": "https://github.com/lorenmt/mtan"}[layout]
    for part in [
        *files,
        source,
        "downloads/manual/nyuv2" if raw_dir is None else f"Looked in: {raw_dir} (",
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


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("labels", 895, "label 895 at row 7, column 9 .* expected whole numbers from 0 to 894"),
        ("depths", np.nan, "depth nan at row 7, column 9"),
        ("depths", np.inf, "depth inf at row 7, column 9"),
        ("depths", -1, "depth -1.0 at row 7, column 9 .* expected finite values, 0 where undefined"),
    ],
)
def test_bad_value_is_named(tmp_path, key, value, message):
    arrays = {name: array[:3] for name, array in frames().items()}
    arrays[key][2, 7, 9] = value
    write_mat(tmp_path / "raw", arrays)
    write_splits(tmp_path / "raw", {"trainNdxs": [[3]], "testNdxs": [[1]]})
    data = builder(tmp_path)
    with pytest.raises(RawDataError, match=f"{re.escape(str(tmp_path / 'raw' / MAT))} frame 3: {message}"):
        data.prepare()
    assert not data.is_prepared()


def test_after_an_error_a_repaired_file_is_read(tmp_path, release):
    with h5py.File(release / MAT, "a") as mat:
        mat["depths"][4, 9, 7] = np.nan  # the last frame to be read
    data = builder(tmp_path)
    with pytest.raises(RawDataError, match="frame 5: depth nan"):
        data.prepare()
    assert not data.is_prepared()
    assert not list((tmp_path / "prepared").rglob("dataset_info.json"))
    with h5py.File(release / MAT, "a") as mat:
        mat["depths"][4, 9, 7] = 1
    data.prepare()
    assert data.is_prepared()
    assert len(data.as_data_source("val")) == 2


def test_truncated_mat_is_named(tmp_path, release):
    (release / MAT).write_bytes((release / MAT).read_bytes()[:-100_000])
    with pytest.raises(RawDataError, match=f"{re.escape(str(release / MAT))}: truncated or damaged HDF5 file"):
        builder(tmp_path).prepare()


def test_damaged_frame_is_named(tmp_path, release):
    with h5py.File(release / MAT, "a") as mat:
        del mat["labels"]
        labels = mat.create_dataset("labels", (5, 640, 480), np.uint16, chunks=(1, 640, 480), compression="gzip")
        labels.id.write_direct_chunk((3, 0, 0), b"not compressed")
    with pytest.raises(RawDataError, match="frame 4: damaged"):
        builder(tmp_path).prepare()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("labels"), "expected 'labels' as uint16 .frames, 640, 480., got no such array"),
        (
            lambda arrays: arrays.update(depths=arrays["depths"][:, ::2]),
            "'depths' as float32 .*, got float32 .5, 640, 240",
        ),
        (lambda arrays: arrays.update(images=arrays["images"] / 255), "'images' as uint8 .*, got float64"),
        (lambda arrays: arrays.update(labels=arrays["labels"][:4]), "have different numbers of frames: .*'labels': 4"),
    ],
)
def test_wrong_arrays(tmp_path, change, message):
    arrays = frames()
    change(arrays)
    write_mat(tmp_path / "raw", arrays)
    with pytest.raises(RawDataError, match=message):
        builder(tmp_path).prepare()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (None, "holds 5 frames, but the official split is for 1449. Add a splits.mat beside it"),
        ({"trainNdxs": [[1]], "testNdxs": [[6]]}, "splits.mat: got frame numbers from 1 to 6, but .* frames 1 to 5"),
        ({"trainNdxs": [[0]], "testNdxs": [[1]]}, "splits.mat: got frame numbers from 0 to 1"),
        ({"trainNdxs": [[1], [2]], "testNdxs": [[2]]}, "splits.mat: .* contain each frame at most once"),
        ({"trainNdxs": [[1]]}, "splits.mat: cannot read trainNdxs and testNdxs"),
    ],
)
def test_wrong_split(tmp_path, release, split, message):
    (release / "splits.mat").unlink()
    if split is not None:
        write_splits(release, split)
    with pytest.raises(RawDataError, match=message):
        builder(tmp_path).prepare()


def test_damaged_splits_file_is_named(tmp_path, release):
    (release / "splits.mat").write_bytes(b"<html>not found</html>")
    with pytest.raises(RawDataError, match=r"splits.mat: cannot read trainNdxs and testNdxs"):
        builder(tmp_path).prepare()


# Real frames


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the 80 real frames in the folder `shared` beside the repository")
def test_real_frames_are_the_same_from_both_layouts(tmp_path):
    data = {}
    for layout, kind in {"release": "mat", "authors": "npy"}.items():
        raw = tmp_path / kind
        subprocess.run([sys.executable, SHARED / "tools" / "make_nyuv2_release.py", kind, raw], check=True)
        data[layout] = builder(tmp_path, raw_dir=str(raw), layout=layout, image_size=(288, 384))
        data[layout].prepare()
    angles = []
    for split, count in {"train": 60, "val": 20}.items():
        sources = [data[layout].as_data_source(split) for layout in ("release", "authors")]
        assert len(sources[0]) == len(sources[1]) == count
        for release, authors in zip(*sources, strict=True):
            np.testing.assert_array_equal(release["image"], np.round(authors["image"] * 255))
            np.testing.assert_array_equal(np.float32(release["image"] / 255), authors["image"])
            np.testing.assert_array_equal(release["semantic"], authors["semantic"])
            np.testing.assert_array_equal(release["depth"], authors["depth"])
            angles.append(np.degrees(np.arccos(np.clip((release["normal"] * authors["normal"]).sum(-1), -1, 1))))
    # The sample's own normals are smoothed over 12 pixels and off by tens of degrees at edges. This checks the axes.
    assert np.median(angles) < 20

    # Compare 40 classes with the label images that the release was made from.
    data = builder(tmp_path, raw_dir=str(tmp_path / "mat"), num_classes=40)
    sample = SHARED / "data" / "nyuv2_sample"
    numbers = sorted(int(path.stem) for path in (sample / "image").glob("*.jpg"))
    for found in (data.example("val", index) for index in range(5)):
        number = numbers[int(found["id"].removeprefix("nyuv2/")) - 1]
        picture = Image.open(sample / "label40" / f"{number:04d}.png").resize((96, 72), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(found["semantic"], np.asarray(picture).astype(int) - 1)
