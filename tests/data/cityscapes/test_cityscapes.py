import io
import json
import re
import shutil
import zipfile
from typing import Any

import numpy as np
import pytest
from helpers.cityscapes_release import PARTS, write_release
from PIL import Image

from mtan_jax.data.cityscapes import Cityscapes
from mtan_jax.data.errors import RawDataError

SIZE = (64, 128)
CAMERA = {"fx": 2000.0, "baseline": 0.2}
FIRST = "aachen/aachen_000000_000019"
# Label ids and their classes, by the table of the Cityscapes benchmark: 19, 7 (all ids), 7 (evaluated ids), 2.
ROWS = {
    "unlabeled": (0, -1, -1, -1, -1),
    "ground": (6, -1, -1, -1, -1),
    "road": (7, 0, 0, 0, 0),
    "parking": (9, -1, 0, -1, -1),
    "building": (11, 2, 1, 1, 0),
    "bridge": (15, -1, 1, -1, -1),
    "pole": (17, 5, 2, 2, 0),
    "polegroup": (18, -1, 2, -1, -1),
    "traffic sign": (20, 7, 2, 2, 0),
    "terrain": (22, 9, 3, 3, 0),
    "sky": (23, 10, 4, 4, 0),
    "rider": (25, 12, 5, 5, 1),
    "car": (26, 13, 6, 6, 1),
    "trailer": (30, -1, 6, -1, -1),
    "bicycle": (33, 18, 6, 6, 1),
}


def scene(split, city, seed, size=SIZE):
    rng = np.random.default_rng(seed)
    return {
        "split": split,
        "city": city,
        "image": rng.integers(0, 256, (*size, 3), np.uint8),
        "label_ids": rng.integers(0, 34, size, np.uint8),
        "disparity": rng.integers(0, 2**15, size, np.uint16),
        "camera": CAMERA,
    }


def scenes():
    return [
        scene("train", "bochum", 0),
        scene("train", "aachen", 1),
        scene("val", "ulm", 2),
        scene("train", "aachen", 3),
    ]


@pytest.fixture
def release(tmp_path):
    write_release(tmp_path / "raw", scenes())
    return tmp_path / "raw"


def builder(tmp_path, **options):
    options = {"data_dir": str(tmp_path / "prepared"), "raw_dir": str(tmp_path / "raw"), "image_size": SIZE} | options
    return Cityscapes(**options)


def prepared(tmp_path, **options):
    data = builder(tmp_path, **options)
    data.prepare()
    return {split: list(data.as_data_source(split)) for split in ("train", "val")}


def assert_equal_examples(a, b):
    for split in ("train", "val"):
        assert len(a[split]) == len(b[split])
        for left, right in zip(a[split], b[split], strict=True):
            assert left.keys() == right.keys()
            for key in ("id", "image", "semantic", "depth"):
                np.testing.assert_array_equal(left[key], right[key])


def test_examples_at_full_size_are_the_files(tmp_path, release):
    data = prepared(tmp_path, num_classes=19)
    assert [example["id"] for example in data["train"]] == [
        b"cityscapes/aachen_000000_000019",
        b"cityscapes/aachen_000001_000019",
        b"cityscapes/bochum_000000_000019",
    ]
    assert [example["id"] for example in data["val"]] == [b"cityscapes/ulm_000000_000019"]
    raw = scenes()
    for example, source in zip(data["train"], (raw[1], raw[3], raw[0]), strict=True):
        np.testing.assert_array_equal(example["image"], source["image"])
        np.testing.assert_array_equal(example["depth"][..., 0], np.float32(source["disparity"] / 65535))
        assert example["labelled"] == {"semantic": True, "depth": True}
        assert "normal" not in example
        for identity, train_id, *_ in ROWS.values():
            assert set(np.unique(example["semantic"][source["label_ids"] == identity])) == {train_id}


@pytest.mark.parametrize(
    ("column", "options"),
    [
        (1, {"num_classes": 19}),
        (2, {"num_classes": 7}),
        (3, {"num_classes": 7, "category_ids": "evaluated"}),
        (4, {"num_classes": 2}),
    ],
)
def test_class_maps(tmp_path, release, column, options):
    data = builder(tmp_path, **options)
    example = data.example("val", 0)
    labels = scenes()[2]["label_ids"]
    for name, row in ROWS.items():
        assert set(np.unique(example["semantic"][labels == row[0]])) == {row[column]}, name
    assert len(data.data_info.classes) == len(data.data_info.palette) == options["num_classes"]
    assert example["semantic"].max() == options["num_classes"] - 1


def test_inverse_depth_by_hand(tmp_path):
    values = np.zeros(SIZE, np.uint16)
    # p, disparity in pixels, inverse depth in 1/m with baseline * fx = 400 m pixels
    cases = [(0, 0.0, 0.0), (1, 0.0, 0.0), (2, 1 / 256, 1 / 102400), (257, 1.0, 0.0025), (25601, 100.0, 0.25)]
    values[0, : len(cases)] = [p for p, _, _ in cases]
    write_release(tmp_path / "raw", [scene(s, "x", 0) | {"disparity": values} for s in ("train", "val")])
    example = builder(tmp_path, depth="inverse_depth").example("val", 0)
    assert example["depth"].dtype == np.float32
    np.testing.assert_allclose(example["depth"][0, : len(cases), 0], [inverse for _, _, inverse in cases], rtol=1e-6)


def test_scenes_survive_the_release(tmp_path):
    rng = np.random.default_rng(0)
    semantic = rng.integers(-1, 7, SIZE).astype(np.int8)
    inverse_depth = rng.uniform(0.005, 0.4, (*SIZE, 1)).astype(np.float32)
    inverse_depth[:5] = 0
    source = scene("train", "x", 0)
    del source["label_ids"], source["disparity"]
    source |= {"semantic": semantic, "inverse_depth": inverse_depth}
    write_release(tmp_path / "raw", [source, source | {"split": "val"}])
    example = builder(tmp_path, depth="inverse_depth").example("train", 0)
    np.testing.assert_array_equal(example["semantic"], semantic)
    # disparity is kept in steps of 1/256 pixel, here 1/256/400 in 1/m
    np.testing.assert_allclose(example["depth"], inverse_depth, atol=0.51 / 256 / 400, rtol=1e-6)
    assert (example["depth"][:5] == 0).all()


def test_shrinking_by_two_by_hand(tmp_path):
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None] * 4, (64, 128, 3)).copy()
    write_release(tmp_path / "raw", [scene(s, "x", 0) | {"image": ramp} for s in ("train", "val")])
    example = builder(tmp_path, image_size=(32, 64), num_classes=19).example("train", 0)
    source = scene("train", "x", 0)
    # nearest: of the two pixels equally near to the middle Pillow takes the second
    full = builder(tmp_path, num_classes=19).example("train", 0)
    np.testing.assert_array_equal(example["semantic"], full["semantic"][1::2, 1::2])
    np.testing.assert_array_equal(example["depth"][..., 0], np.float32(source["disparity"][1::2, 1::2] / 65535))
    # bilinear: pixel i lies at 2 i + 0.5 of the ramp 4 i (edges, where the filter is cut, left out)
    expected = 4 * (2 * np.arange(32) + 0.5)
    np.testing.assert_array_equal(example["image"][1:-1, 5, 0], expected[1:-1])
    assert (example["image"] == example["image"][:, :1, :1]).all()


def test_zips_hold_the_same_as_folders(tmp_path, release):
    folders = prepared(tmp_path, depth="inverse_depth")
    write_release(tmp_path / "zips", scenes(), zips=True)
    before = sorted((tmp_path / "zips").iterdir())
    zips = {"raw_dir": str(tmp_path / "zips"), "data_dir": str(tmp_path / "from_zips"), "depth": "inverse_depth"}
    assert_equal_examples(folders, prepared(tmp_path, **zips))
    assert sorted((tmp_path / "zips").iterdir()) == before  # nothing was extracted
    # A dataset follows the files that it was made from: zips are others than folders.
    with pytest.raises(
        RawDataError, match=r"4 new: leftImg8bit_trainvaltest.zip.*; 16 gone: .*--config.data.prepare=again"
    ):
        builder(tmp_path, depth="inverse_depth", raw_dir=str(tmp_path / "zips")).prepare()
    # A mixture of both.
    shutil.copytree(release / "gtFine", tmp_path / "zips" / "gtFine")
    (tmp_path / "zips" / "gtFine_trainvaltest.zip").unlink()
    assert_equal_examples(folders, prepared(tmp_path, **zips | {"data_dir": str(tmp_path / "mixed")}))


def test_an_empty_folder_does_not_hide_the_zip(tmp_path, release):
    write_release(tmp_path / "zips", scenes(), zips=True)
    (tmp_path / "zips" / "gtFine").mkdir()
    zips = {"raw_dir": str(tmp_path / "zips"), "data_dir": str(tmp_path / "from_zips")}
    assert_equal_examples(prepared(tmp_path), prepared(tmp_path, **zips))


def test_disparity_needs_no_cameras(tmp_path, release):
    shutil.rmtree(release / "camera")
    data = builder(tmp_path)
    assert len([data.example("train", index) for index in range(data.split_sizes()["train"])]) == 3
    with pytest.raises(RawDataError, match=r"camera_trainvaltest.zip"):
        builder(tmp_path, depth="inverse_depth").prepare()


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


def test_authors_set_has_disparity_only(tmp_path):
    with pytest.raises(ValueError, match="depth: got 'inverse_depth'; the layout 'authors' holds 'disparity' only"):
        builder(tmp_path, layout="authors", depth="inverse_depth")


# Errors


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


def test_wrong_layout_is_told(tmp_path, release):
    with pytest.raises(RawDataError, match=r"holds the layout 'release': set --config.data.options.layout=release"):
        builder(tmp_path, layout="authors").prepare()
    write_authors(tmp_path / "authors")
    with pytest.raises(RawDataError, match=r"holds the layout 'authors': set --config.data.options.layout=authors"):
        builder(tmp_path, raw_dir=str(tmp_path / "authors"), layout="release").prepare()


@pytest.mark.parametrize("part", PARTS)
def test_missing_partner(tmp_path, release, part):
    (path,) = (release / part / "train").glob("aachen/*_000001_*" if part != "gtFine" else "aachen/*_000001_*Ids.png")
    path.unlink()
    name = path.relative_to(release).as_posix()
    with pytest.raises(RawDataError, match=f"{name} is missing: {part} has 3 files, the parts together have 4 images"):
        builder(tmp_path, depth="inverse_depth").prepare()


def truncate(content):
    return content[: len(content) // 2]


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="png")
    return buffer.getvalue()


BAD_LABELS = np.full(SIZE, 7, np.uint8)
BAD_LABELS[3, 4] = 34
DAMAGES = [
    (f"leftImg8bit/train/{FIRST}_leftImg8bit.png", truncate, "cannot be read as a picture"),
    (f"gtFine/train/{FIRST}_gtFine_labelIds.png", lambda content: b"", "cannot be read as a picture"),
    (f"disparity/train/{FIRST}_disparity.png", lambda content: content[:60], "cannot be read as a picture"),
    (
        f"gtFine/train/{FIRST}_gtFine_labelIds.png",
        lambda content: png(BAD_LABELS),
        "label 34 at row 3, column 4 .and 0 more pixels. is outside its range; expected whole numbers from 0 to 33",
    ),
    (
        f"gtFine/train/{FIRST}_gtFine_labelIds.png",
        lambda content: png(np.zeros((32, 64), np.uint8)),
        "32x64 pixels, but the image has 64x128",
    ),
    (
        f"disparity/train/{FIRST}_disparity.png",
        lambda content: png(np.zeros(SIZE, np.uint8)),
        "expected a picture of one uint16 channel, got Pillow mode 'L'",
    ),
    (f"camera/train/{FIRST}_camera.json", truncate, "no extrinsic.baseline and intrinsic.fx could be read"),
    (f"camera/train/{FIRST}_camera.json", lambda content: b"{}", "no extrinsic.baseline and intrinsic.fx"),
    (
        f"camera/train/{FIRST}_camera.json",
        lambda content: json.dumps({"extrinsic": {"baseline": 0}, "intrinsic": {"fx": 2000}}).encode(),
        "baseline 0.0 m and fx 2000.0 pixels must be positive",
    ),
]


@pytest.mark.parametrize(("file", "damage", "message"), DAMAGES)
def test_damaged_file_is_named_and_read_once_it_is_repaired(tmp_path, release, file, damage, message):
    good = (release / file).read_bytes()
    (release / file).write_bytes(damage(good))
    data = builder(tmp_path, depth="inverse_depth")
    with pytest.raises(RawDataError, match=f"{re.escape(str(release / file))}: .*{message}"):
        data.prepare()
    assert not data.is_prepared()
    assert not list((tmp_path / "prepared").rglob("dataset_info.json"))
    (release / file).write_bytes(good)
    data.prepare()  # the same builder, after repair
    assert data.is_prepared()
    assert len(data.as_data_source("train")) == 3


def test_truncated_zip_is_named(tmp_path):
    write_release(tmp_path / "raw", scenes(), zips=True)
    path = tmp_path / "raw" / "gtFine_trainvaltest.zip"
    path.write_bytes(truncate(path.read_bytes()))
    with pytest.raises(RawDataError, match=f"{re.escape(str(path))}: truncated or damaged zip"):
        builder(tmp_path).prepare()


def test_damaged_zip_member_is_named(tmp_path):
    write_release(tmp_path / "raw", scenes(), zips=True)
    path = tmp_path / "raw" / "leftImg8bit_trainvaltest.zip"
    name = f"leftImg8bit/train/{FIRST}_leftImg8bit.png"
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(name).header_offset
    content = bytearray(path.read_bytes())
    content[start + 2000] ^= 255
    path.write_bytes(content)
    with pytest.raises(RawDataError, match=f"{re.escape(f'{path}:{name}')}: damaged .*CRC"):
        builder(tmp_path).prepare()
    assert not builder(tmp_path).is_prepared()


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


# Prepared sets and the raw files they came from


def test_prepared_set_needs_no_raw_data(tmp_path, release):
    first = prepared(tmp_path)
    shutil.rmtree(release)
    assert_equal_examples(first, prepared(tmp_path, raw_dir=None))
    assert_equal_examples(first, prepared(tmp_path))  # the folder given is gone: the prepared set is used


def test_other_raw_files_are_not_ignored(tmp_path, release):
    prepared(tmp_path)
    shutil.move(release, tmp_path / "moved")
    builder(tmp_path, raw_dir=str(tmp_path / "moved")).prepare()  # the same files elsewhere
    write_release(release, [*scenes(), scene("val", "ulm", 9)])
    with pytest.raises(RawDataError, match=r"prepared from other files than those in .*raw") as error:
        builder(tmp_path).prepare()
    assert "--config.data.data_dir" in str(error.value)
    assert len(builder(tmp_path, raw_dir=None).as_data_source("val")) == 1
