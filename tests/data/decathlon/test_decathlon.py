"""The builders: arguments, several datasets together, missing raw data, and prepared datasets."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.decathlon_release import COUNTS, make, stored, write_folders, write_official
from PIL import Image

from mtan_jax.data.decathlon import Decathlon
from mtan_jax.data.errors import RawDataError
from mtan_jax.data.raw.image_files import read_rgb

SAMPLE = Path(__file__).resolve().parents[4] / "shared" / "data" / "decathlon_sample"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "zips"}, "layout: got 'zips'; expected one of 'official', 'folders', 'tfds', 'auto'"),
        ({"layout": "official", "datasets": ["animals"]}, "datasets: got 'animals'; expected one of 'imagenet12', "),
        ({"layout": "tfds", "datasets": ["dtd", "SVHN"]}, "datasets: got 'SVHN'; expected one of 'imagenet12', "),
        ({"datasets": "dtd"}, "datasets: got 'dtd'; expected distinct dataset names, such as ('dtd', 'svhn')"),
        ({"datasets": []}, "datasets: got []; expected distinct dataset names"),
        ({"datasets": ["dtd", "dtd"]}, "datasets: got ['dtd', 'dtd']; expected distinct dataset names"),
        ({"datasets": ["a/b"]}, "datasets: got 'a/b'; expected the name of a folder"),
        ({"datasets": [".."]}, "datasets: got '..'; expected the name of a folder"),
        ({"image_size": (0, 72)}, "image_size: got (0, 72); expected height and width"),
    ],
)
def test_arguments_are_checked(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Decathlon(data_dir=str(tmp_path), **options)


def test_published_statistics_and_flips(tmp_path):
    infos = {}
    for name in ("dtd", "gtsrb", "omniglot", "svhn", "vgg-flowers"):
        write_folders(tmp_path / "raw", name, COUNTS)
        data = make(tmp_path, name)
        data.prepare()
        infos[name] = data.image_set
    assert [name for name, info in infos.items() if not info.flip] == ["gtsrb", "omniglot", "svhn"]
    # from the published file, rounded to four digits
    np.testing.assert_allclose(infos["dtd"].mean, [0.5270, 0.4703, 0.4240], atol=5e-5)
    np.testing.assert_allclose(infos["dtd"].std, [0.2523, 0.2409, 0.2499], atol=5e-5)
    np.testing.assert_allclose(infos["omniglot"].mean, [0.0810] * 3, atol=5e-5)
    np.testing.assert_allclose(infos["vgg-flowers"].std, [0.2851, 0.2384, 0.2640], atol=5e-5)


def test_own_datasets_that_must_not_be_flipped(tmp_path):
    sets = Decathlon(data_dir=str(tmp_path), datasets=("letters", "cats", "svhn"), unflipped=("letters",))
    assert [builder.flip for builder in sets.builders.values()] == [False, True, False]
    with pytest.raises(ValueError, match=r"unflipped: got 'digits'; expected only names among letters, cats\."):
        Decathlon(data_dir=str(tmp_path), datasets=("letters", "cats"), unflipped=("digits",))


def test_default_is_the_ten_datasets(tmp_path):
    data = Decathlon(data_dir=str(tmp_path), layout="official")
    assert data.targets == (
        *("imagenet12", "aircraft", "cifar100", "daimlerpedcls", "dtd"),
        *("gtsrb", "omniglot", "svhn", "ucf101", "vgg-flowers"),
    )
    assert all(builder.known_statistics() for builder in data.builders.values())


def test_official_class_counts_are_known_without_data(tmp_path):
    info = Decathlon(data_dir=str(tmp_path), layout="official").data_info
    assert [len(found.classes) for found in info.sets.values()] == [1000, 100, 100, 2, 47, 43, 1623, 10, 101, 102]


def test_several_datasets_together(tmp_path, animals, digits):
    write_folders(tmp_path / "raw", "plants", COUNTS)
    folders = {"data_dir": str(tmp_path / "prepared"), "raw_dir": str(tmp_path / "raw")}
    data = Decathlon(datasets=["plants", "animals"], **folders)
    assert data.targets == ("plants", "animals")
    assert data.data_info.image_size == (72, 72)
    data.prepare()
    prepared_once = {path: path.stat().st_mtime_ns for path in (tmp_path / "prepared").rglob("*.array_record*")}
    assert len(prepared_once) == 4
    again = Decathlon(datasets=["animals"], image_size=(64, 48), data_dir=folders["data_dir"])
    again.prepare()  # needs no raw data and is not prepared again
    assert again.data_info.image_size == (64, 48)
    assert again.data_info.sets["animals"] == data.data_info.sets["animals"]
    assert {path: path.stat().st_mtime_ns for path in prepared_once} == prepared_once
    # Each layout of a dataset is prepared in its own folder.
    layouts = ("official", "folders", "tfds")
    assert len({make(tmp_path, "svhn", layout).data_dir for layout in layouts}) == len(layouts)


def test_16_bit_grey_images_do_not_saturate(tmp_path):
    values = np.array([[0, 255, 256, 300], [32768, 40000, 65000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    by_hand = [[0, 0, 1, 1], [128, 156, 253, 255]]  # divided by 256
    np.testing.assert_array_equal(read_rgb(tmp_path / "deep.png", "")[..., 0], by_hand)
    assert read_rgb((tmp_path / "deep.png").read_bytes(), "").shape == (2, 4, 3)


# Missing raw data


@pytest.mark.parametrize("raw", [None, "nowhere", "empty"])
@pytest.mark.parametrize("layout", ["official", "folders", "tfds"])
def test_missing_raw_data(tmp_path, raw, layout):
    (tmp_path / "empty").mkdir()
    raw_dir = None if raw is None else str(tmp_path / raw)
    with pytest.raises(RawDataError) as error:
        make(tmp_path, "dtd", layout, raw_dir=raw_dir).prepare()
    files = {
        "official": [
            "decathlon-1.0-data/SET/{train,val}/CLASS/*.jpg",
            "annotations/SET_{train,val,test_stripped}.json",
        ],
        "folders": ["SET/{train,val}/CLASS/*.{jpg,jpeg,png}"],
        "tfds": ["visual_domain_decathlon/SET/VERSION/", "tfds build visual_domain_decathlon/SET"],
    }[layout]
    for part in ["'dtd'", *files, "--config.data.raw_dir", "configs/mini_decathlon.py needs no raw data."]:
        assert part in str(error.value)
    assert "streets" not in str(error.value)
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize("layout", ["official", "folders", "tfds"])
def test_all_datasets_without_raw_data_are_named(tmp_path, animals, layout):
    make(tmp_path).prepare()
    names = {"folders": ("dtd", "animals", "svhn")}.get(layout, ("dtd", "svhn"))
    data = Decathlon(datasets=names, layout=layout, data_dir=str(tmp_path / "prepared"))
    with pytest.raises(RawDataError, match=r"'dtd'[\s\S]*\n  Sets that are not prepared yet: dtd, svhn\.$"):
        data.prepare()


@pytest.mark.parametrize(
    ("layout", "name", "message"),
    [
        ("folders", "dtd", "There is no 'dtd': {raw} contains animals, notes.txt."),
        ("official", "dtd", "There is no 'dtd': {raw}/decathlon-1.0-data contains aircraft.tar, svhn."),
        (
            "official",
            "aircraft",
            "There is no 'aircraft': {raw}/decathlon-1.0-data contains aircraft.tar, svhn. "
            "Extract {raw}/decathlon-1.0-data/aircraft.tar.",
        ),
    ],
)
def test_missing_dataset_error_lists_the_folder(tmp_path, layout, name, message):
    raw = tmp_path / "raw"
    if layout == "folders":
        write_folders(raw, "animals", COUNTS)
        (raw / "notes.txt").touch()
    else:
        write_official(raw, "svhn", 10)
        (raw / "decathlon-1.0-data" / "aircraft.tar").touch()
    with pytest.raises(RawDataError, match=re.escape(message.format(raw=raw))):
        make(tmp_path, name, layout).prepare()


def test_wrong_layout_is_reported(tmp_path, digits):
    with pytest.raises(RawDataError, match=r"layout 'official': set --config.data.options.layout=official"):
        make(tmp_path, "svhn").prepare()
    write_folders(tmp_path / "own", "svhn", COUNTS)
    with pytest.raises(RawDataError, match=r"layout 'folders': set --config.data.options.layout=folders"):
        make(tmp_path, "svhn", "official", raw_dir=str(tmp_path / "own")).prepare()


# Changed raw data


@pytest.mark.parametrize("file", ["annotations/svhn_val.json", "decathlon-1.0-data/svhn/test/000001.jpg"])
def test_other_raw_files_are_not_ignored(tmp_path, digits, file):
    make(tmp_path, "svhn", "official").prepare()
    make(tmp_path, "svhn", "official").prepare()  # the same files: nothing to do
    (digits / file).write_bytes((digits / file).read_bytes() + b" ")
    with pytest.raises(RawDataError, match="prepared from other files than those in"):
        make(tmp_path, "svhn", "official").prepare()
    shutil.rmtree(digits)
    make(tmp_path, "svhn", "official").prepare()  # raw_dir no longer exists: the prepared dataset is used


# Real images


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs the real images in the folder `shared` beside the repository")
def test_real_images(tmp_path):
    data = Decathlon(data_dir=str(tmp_path), raw_dir=str(SAMPLE), datasets=["dtd", "gtsrb", "omniglot"])
    data.prepare()
    expected = {"dtd": (960, 240, 10), "gtsrb": (1450, 326, 43), "omniglot": (1500, 500, 100)}
    for name, (train, val, classes) in expected.items():
        builder = data.builders[name]
        sizes = {split: builder.info.splits[split].num_examples for split in ("train", "val")}
        assert sizes == {"train": train, "val": val}
        assert len(data.data_info.sets[name].classes) == classes
        example = stored(builder, "val")[val // 2]
        path = SAMPLE / example["id"].decode()
        assert example["image"] == path.read_bytes()
        assert data.data_info.sets[name].classes[example["label"]] == path.parent.name
        with Image.open(path) as picture:
            np.testing.assert_array_equal(read_rgb(example["image"], name), np.asarray(picture.convert("RGB")))
