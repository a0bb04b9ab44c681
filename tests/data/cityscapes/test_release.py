"""The official release: class maps, depth conventions, resizing, and missing or damaged files."""

import json
import re
import shutil

import numpy as np
import pytest
from helpers.cityscapes_release import PACKAGES, SIZE, builder, four_scenes, png, prepared, random_scene, write_release

from mtan_jax.data.errors import RawDataError

FIRST = "aachen/aachen_000000_000019"
# Label id, then its class among 19, 7 (all ids), 7 (evaluated ids) and 2, from the table of the Cityscapes benchmark.
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


def test_examples_at_full_size_are_the_files(tmp_path, release):
    data = prepared(tmp_path, num_classes=19)
    assert [example["id"] for example in data["train"]] == [
        b"cityscapes/aachen_000000_000019",
        b"cityscapes/aachen_000001_000019",
        b"cityscapes/bochum_000000_000019",
    ]
    assert [example["id"] for example in data["val"]] == [b"cityscapes/ulm_000000_000019"]
    raw = four_scenes()
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
    labels = four_scenes()[2]["label_ids"]
    for name, row in ROWS.items():
        assert set(np.unique(example["semantic"][labels == row[0]])) == {row[column]}, name
    assert len(data.data_info.classes) == len(data.data_info.palette) == options["num_classes"]
    assert example["semantic"].max() == options["num_classes"] - 1


def test_inverse_depth_by_hand(tmp_path):
    values = np.zeros(SIZE, np.uint16)
    # p, disparity in pixels, inverse depth in 1/m with baseline * fx = 400 m pixels
    cases = [(0, 0.0, 0.0), (1, 0.0, 0.0), (2, 1 / 256, 1 / 102400), (257, 1.0, 0.0025), (25601, 100.0, 0.25)]
    values[0, : len(cases)] = [p for p, _, _ in cases]
    write_release(tmp_path / "raw", [random_scene(s, "x", 0) | {"disparity": values} for s in ("train", "val")])
    example = builder(tmp_path, depth="inverse_depth").example("val", 0)
    assert example["depth"].dtype == np.float32
    np.testing.assert_allclose(example["depth"][0, : len(cases), 0], [inverse for _, _, inverse in cases], rtol=1e-6)


def test_scenes_survive_the_release(tmp_path):
    rng = np.random.default_rng(0)
    semantic = rng.integers(-1, 7, SIZE).astype(np.int8)
    inverse_depth = rng.uniform(0.005, 0.4, (*SIZE, 1)).astype(np.float32)
    inverse_depth[:5] = 0
    source = random_scene("train", "x", 0)
    del source["label_ids"], source["disparity"]
    source |= {"semantic": semantic, "inverse_depth": inverse_depth}
    write_release(tmp_path / "raw", [source, source | {"split": "val"}])
    example = builder(tmp_path, depth="inverse_depth").example("train", 0)
    np.testing.assert_array_equal(example["semantic"], semantic)
    # Disparity is stored in steps of 1/256 pixel, which is 1/256/400 in 1/m here.
    np.testing.assert_allclose(example["depth"], inverse_depth, atol=0.51 / 256 / 400, rtol=1e-6)
    assert (example["depth"][:5] == 0).all()


def test_shrinking_by_two_by_hand(tmp_path):
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None] * 4, (64, 128, 3)).copy()
    write_release(tmp_path / "raw", [random_scene(s, "x", 0) | {"image": ramp} for s in ("train", "val")])
    example = builder(tmp_path, image_size=(32, 64), num_classes=19).example("train", 0)
    source = random_scene("train", "x", 0)
    # Nearest: Pillow takes the second of the two pixels equally near to the centre.
    full = builder(tmp_path, num_classes=19).example("train", 0)
    np.testing.assert_array_equal(example["semantic"], full["semantic"][1::2, 1::2])
    np.testing.assert_array_equal(example["depth"][..., 0], np.float32(source["disparity"][1::2, 1::2] / 65535))
    # Bilinear: pixel i lies at 2 i + 0.5 of the ramp 4 i, except at the edges, where the filter is cut.
    expected = 4 * (2 * np.arange(32) + 0.5)
    np.testing.assert_array_equal(example["image"][1:-1, 5, 0], expected[1:-1])
    assert (example["image"] == example["image"][:, :1, :1]).all()


def test_disparity_needs_no_cameras(tmp_path, release):
    shutil.rmtree(release / "camera")
    data = builder(tmp_path)
    assert len([data.example("train", index) for index in range(data.split_sizes()["train"])]) == 3
    with pytest.raises(RawDataError, match=r"camera_trainvaltest.zip"):
        builder(tmp_path, depth="inverse_depth").prepare()


@pytest.mark.parametrize("package", PACKAGES)
def test_missing_file_of_an_image(tmp_path, release, package):
    (path,) = (release / package / "train").glob(
        "aachen/*_000001_*" if package != "gtFine" else "aachen/*_000001_*Ids.png"
    )
    path.unlink()
    name = path.relative_to(release).as_posix()
    with pytest.raises(
        RawDataError, match=f"{name} is missing: {package} has 3 files, but all packages together have 4 images"
    ):
        builder(tmp_path, depth="inverse_depth").prepare()


BAD_LABELS = np.full(SIZE, 7, np.uint8)
BAD_LABELS[3, 4] = 34
DAMAGES = [
    (
        f"leftImg8bit/train/{FIRST}_leftImg8bit.png",
        lambda content: content[: len(content) // 2],
        "cannot be read as a picture",
    ),
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
    (
        f"camera/train/{FIRST}_camera.json",
        lambda content: content[: len(content) // 2],
        "cannot read extrinsic.baseline and intrinsic.fx",
    ),
    (f"camera/train/{FIRST}_camera.json", lambda content: b"{}", "cannot read extrinsic.baseline and intrinsic.fx"),
    (
        f"camera/train/{FIRST}_camera.json",
        lambda content: json.dumps({"extrinsic": {"baseline": 0}, "intrinsic": {"fx": 2000}}).encode(),
        "got baseline 0.0 m and fx 2000.0 pixels; both must be positive and finite",
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
