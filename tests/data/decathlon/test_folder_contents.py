"""Class folders: prepared examples, channel statistics, and missing or damaged files."""

import re
import shutil

import numpy as np
import pytest
from helpers.decathlon_release import COUNTS, drawn, make, stored, write_folders
from PIL import Image

from mtan_jax.data.errors import RawDataError

# Raw data, prepared data and statistics


def test_files_are_stored_unchanged(tmp_path, animals):
    (animals / "val" / "ant").mkdir()
    (animals / "val" / "ant" / "b.PNG").write_bytes(drawn(8, "png"))
    (animals / "val" / "ant" / "a.jpeg").write_bytes(drawn(9, grey=True))
    (animals / "val" / "ant" / "notes.txt").write_text("not an image")
    (animals / "val" / "ant" / ".hidden.jpg").write_text("hidden")
    (animals / "test" / "zebra").mkdir(parents=True)
    (animals / "test" / "zebra" / "1.jpg").write_bytes(drawn(10))
    (animals / "test" / "2.jpg").write_bytes(drawn(11))
    data = make(tmp_path)
    data.prepare()
    assert data.image_set.classes == ("ant", "zebra")
    expected = {
        "train": [("ant/000001.jpg", 0), ("zebra/000001.jpg", 1), ("zebra/000002.jpg", 1)],
        "val": [("ant/a.jpeg", 0), ("ant/b.PNG", 0), ("zebra/000001.jpg", 1)],
        "test": [("zebra/1.jpg", 1), ("2.jpg", -1)],
    }
    assert list(data.info.splits) == list(expected)
    for split, rows in expected.items():
        examples = stored(data, split)
        assert [(example["id"].decode(), example["label"]) for example in examples] == [
            (f"animals/{split}/{file}", label) for file, label in rows
        ]
        for example, (file, _) in zip(examples, rows, strict=True):
            assert example["image"] == (animals / split / file).read_bytes()


def test_statistics_of_own_datasets_by_hand(tmp_path):
    for split in ("train", "val"):
        for name, colour in {"a": (0, 51, 255), "b": (255, 51, 0)}.items():
            place = tmp_path / "raw" / "own" / split / name
            place.mkdir(parents=True)
            # 6 pixels of a and 2 of b: the mean is over pixels, not over images.
            Image.new("RGB", (3 if name == "a" else 1, 2), colour).save(place / "1.png")
    data = make(tmp_path, "own")
    data.prepare()
    np.testing.assert_allclose(data.image_set.mean, [0.25, 0.2, 0.75], atol=1e-7)
    # sqrt(3)/4 for a value of 1 with probability 1/4; the minimum, 1e-6, for a constant.
    np.testing.assert_allclose(data.image_set.std, [3**0.5 / 4, 1e-6, 3**0.5 / 4], atol=1e-7)


# Missing and damaged files


@pytest.mark.parametrize(("split", "rest"), [("train", "val"), ("val", "train")])
def test_missing_split(tmp_path, animals, split, rest):
    shutil.rmtree(animals / split)
    message = f"'animals' has no split '{split}': {animals} contains {rest}."
    with pytest.raises(RawDataError, match=re.escape(message)):
        make(tmp_path).prepare()


@pytest.mark.parametrize(
    ("split", "message"), [("train", "train has no class folders."), ("val", "val has no images.")]
)
def test_empty_split(tmp_path, animals, split, message):
    shutil.rmtree(animals / split)
    (animals / split).mkdir()
    with pytest.raises(RawDataError, match=re.escape(f"{animals}/{message}")):
        make(tmp_path).prepare()


def test_empty_class(tmp_path, animals):
    (animals / "train" / "newt").mkdir()
    (animals / "train" / "newt" / "1.txt").touch()
    message = f"{animals}/train/newt: contains no images (it contains 1.txt). Add images or remove the folder."
    with pytest.raises(RawDataError, match=re.escape(message)):
        make(tmp_path).prepare()


@pytest.mark.parametrize("split", ["val", "test"])
def test_class_that_is_not_in_train(tmp_path, animals, split):
    write_folders(tmp_path / "raw", "animals", {split: {"newt": 1}})
    message = f"{animals}/{split}/newt: this class is not in train; {animals}/train contains ant, zebra. Add it there"
    with pytest.raises(RawDataError, match=re.escape(message)):
        make(tmp_path).prepare()


@pytest.mark.parametrize("name", ["animals", "dtd"])  # without and with published statistics
@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: b"a text", lambda data: data[: len(data) - 40]],
    ids=["empty", "text", "truncated"],
)
def test_damaged_image_is_named_and_read_once_it_is_repaired(tmp_path, name, damage):
    write_folders(tmp_path / "raw", name, COUNTS)
    path = tmp_path / "raw" / name / "train" / "zebra" / "000002.jpg"
    good = path.read_bytes()
    path.write_bytes(damage(good))
    data = make(tmp_path, name)
    with pytest.raises(RawDataError, match=f"{re.escape(str(path))}: cannot be read as a picture"):
        data.prepare()
    assert not data.is_prepared()
    assert not list((tmp_path / "prepared").rglob("dataset_info.json"))
    path.write_bytes(good)
    data.prepare()  # the same builder, after repair
    assert len(stored(data, "train")) == 3


def test_huge_image_is_named(tmp_path, animals, monkeypatch):
    path = animals / "train" / "zebra" / "000002.jpg"
    Image.new("L", (30, 30)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # the other images have at most 156
    with pytest.raises(RawDataError, match=f"{re.escape(str(path))}: too large: 900 pixels; the limit is 400"):
        make(tmp_path).prepare()
