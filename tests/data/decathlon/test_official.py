"""The official release: images, annotations and category ids."""

import pytest
from helpers.decathlon_release import make, stored, write_official

from mtan_jax.data.errors import RawDataError


@pytest.mark.parametrize("devkit", [False, True])
def test_official(tmp_path, devkit):
    write_official(tmp_path / "raw", "svhn", 10, devkit=devkit)
    data = make(tmp_path, "svhn", "official")
    data.prepare()
    folder = tmp_path / "raw" / ("decathlon-1.0/data" if devkit else "decathlon-1.0-data") / "svhn"
    names = [f"{number:04d}" for number in range(1, 11)]
    assert data.image_set.classes == tuple(names)
    assert data.category_ids == tuple(range(900, 890, -1))
    for split, count in {"train": 20, "val": 10}.items():
        examples = stored(data, split)
        assert len(examples) == count
        for example in examples:
            file = example["id"].decode().removeprefix("svhn/")
            assert file.startswith(f"{split}/{names[example['label']]}/")
            assert example["image"] == (folder / file).read_bytes()
    again = make(tmp_path, "svhn", "official", raw_dir=None)  # reads the metadata of the prepared dataset
    assert (again.category_ids, again.image_set) == (data.category_ids, data.image_set)
    # The annotations list test images in reverse order: 3000 is 000003.jpg.
    test = stored(data, "test")
    assert [example["id"] for example in test] == [b"svhn/test/3002", b"svhn/test/3001", b"svhn/test/3000"]
    assert [example["label"] for example in test] == [-1] * 3
    for number, example in enumerate(test, 1):
        assert example["image"] == (folder / "test" / f"{number:06d}.jpg").read_bytes()


def test_official_without_test_images(tmp_path):
    write_official(tmp_path / "raw", "daimlerpedcls", 2, test=0)
    (tmp_path / "raw" / "annotations" / "daimlerpedcls_test_stripped.json").unlink()
    data = make(tmp_path, "daimlerpedcls", "official")
    data.prepare()
    assert data.info.splits.keys() == {"train", "val"}


def test_official_class_count(tmp_path):
    write_official(tmp_path / "raw", "svhn", 9)
    with pytest.raises(
        RawDataError, match=r"svhn/train: got 9 classes, but the official svhn has 10\. .*layout=folders"
    ):
        make(tmp_path, "svhn", "official").prepare()
    # Part of an official dataset can be read as class folders.
    part = make(tmp_path, "svhn", raw_dir=str(tmp_path / "raw" / "decathlon-1.0-data"))
    part.prepare()
    assert len(part.image_set.classes) == 9


def test_missing_annotations(tmp_path, digits):
    (digits / "annotations" / "svhn_test_stripped.json").unlink()
    with pytest.raises(RawDataError) as error:
        make(tmp_path, "svhn", "official").prepare()
    name = "svhn_test_stripped.json"
    assert f"There is neither annotations/{name} nor decathlon-1.0/annotations/{name}." in str(error.value)
    assert "https://www.robots.ox.ac.uk/~vgg/decathlon" in str(error.value)


def test_only_the_official_layout_has_category_ids(tmp_path, animals, digits):
    with pytest.raises(ValueError, match=r"svhn has no category ids .* Prepare it with .*layout=official"):
        _ = make(tmp_path, "svhn", "official").category_ids  # not prepared yet
    data = make(tmp_path)
    data.prepare()
    with pytest.raises(ValueError, match="animals has no category ids"):
        _ = data.category_ids
