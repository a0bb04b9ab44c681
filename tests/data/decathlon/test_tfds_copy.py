"""Datasets prepared by TFDS' `visual_domain_decathlon`."""

import json
import re
import shutil
from pathlib import Path

import pytest
from helpers.decathlon_release import TFDSCopy, drawn, make, stored

from mtan_jax.data.errors import RawDataError


@pytest.fixture
def copy(tmp_path):
    builder = TFDSCopy("svhn", 10, data_dir=str(tmp_path / "prepared"), file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


def check_copy(data):
    data.prepare()
    assert data.image_set.classes == tuple("0123456789")
    for split, count in {"train": 4, "val": 3, "test": 2}.items():
        examples = sorted(stored(data, split), key=lambda example: example["id"])
        assert len(examples) == count
        for number, example in enumerate(examples):
            folder = "" if split == "test" else f"{number + 1:04d}/"
            assert example["id"].decode() == f"svhn/{split}/{folder}{number:06d}.jpg"
            assert example["label"] == (-1 if split == "test" else number)
            assert example["image"] == drawn(number, grey=number == 1)


def test_tfds(tmp_path, copy):
    check_copy(make(tmp_path, "svhn", "tfds", raw_dir=None))


def test_tfds_in_the_raw_folder(tmp_path, copy):
    shutil.copytree(tmp_path / "prepared", tmp_path / "raw")
    shutil.rmtree(tmp_path / "prepared")
    check_copy(make(tmp_path, "svhn", "tfds"))


def test_tfds_newest_version(tmp_path, copy):
    shutil.copytree(copy, copy.parent / "1.10.0")
    shutil.rmtree(copy)  # 1.2.0 is the last version in alphabetical order
    copy.mkdir()
    (copy / "features.json").write_text("a version that is not read")
    check_copy(make(tmp_path, "svhn", "tfds", raw_dir=None))


def test_tfds_in_another_format(tmp_path, copy):
    path = copy / "dataset_info.json"
    content = json.loads(path.read_text())
    assert content["fileFormat"] == "array_record"
    path.write_text(json.dumps(content | {"fileFormat": "tfrecord"}))
    data = make(tmp_path, "svhn", "tfds", raw_dir=None)
    with pytest.raises(RawDataError) as error:
        data.prepare()
    for part in [
        f"{copy}: stored as tfrecord, which cannot be read without TensorFlow",
        f"tfds convert_format --dataset_version_dir={copy} --out_file_format=array_record",
        "tfds build visual_domain_decathlon/svhn --file_format=array_record",
    ]:
        assert part in str(error.value)
    # convert_format leaves both formats side by side.
    path.write_text(json.dumps(content | {"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}))
    check_copy(data)


def test_tfds_missing(tmp_path, copy):
    with pytest.raises(RawDataError) as error:
        make(tmp_path, "dtd", "tfds", raw_dir=None).prepare()
    assert f"the dataset 'dtd' is not prepared in {tmp_path}/prepared" in str(error.value)
    assert "tfds build visual_domain_decathlon/SET --file_format=array_record" in str(error.value)


def test_tfds_without_validation(tmp_path, copy):
    path = copy / "dataset_info.json"
    content = json.loads(path.read_text())
    content["splits"] = [split for split in content["splits"] if split["name"] != "validation"]
    path.write_text(json.dumps(content))
    with pytest.raises(RawDataError, match=f"{re.escape(str(copy))}: no split 'validation'; got "):
        make(tmp_path, "svhn", "tfds", raw_dir=None).prepare()


def test_another_copy_by_tfds_is_not_ignored(tmp_path, copy):
    make(tmp_path, "svhn", "tfds", raw_dir=None).prepare()
    raw = tmp_path / "raw" / copy.relative_to(tmp_path / "prepared")
    shutil.copytree(copy, raw)
    make(tmp_path, "svhn", "tfds").prepare()  # the same files elsewhere
    (raw / "dataset_info.json").write_text((raw / "dataset_info.json").read_text() + " ")
    with pytest.raises(RawDataError, match="prepared from other files than those in"):
        make(tmp_path, "svhn", "tfds").prepare()
