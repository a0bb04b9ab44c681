"""Annotations of the official layout: read as a stream, joined by id and name, and only where they are needed."""

import json
import os
import random
import tracemalloc

import pytest
from helpers.decathlon_release import drawn, write_official

from mtan_jax.data.decathlon import DecathlonSet
from mtan_jax.data.errors import RawDataError


def make(tmp_path):
    return DecathlonSet(
        set_name="svhn", layout="official", data_dir=str(tmp_path / "prepared"), raw_dir=str(tmp_path / "raw")
    )


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def raw(tmp_path):
    write_official(tmp_path / "raw", "svhn", 10)
    return tmp_path / "raw"


def test_examples_need_no_annotations_but_those_of_test_images(tmp_path, raw):
    for split in ("train", "val"):
        (raw / "annotations" / f"svhn_{split}.json").unlink()
    data = make(tmp_path)
    folder = raw / "decathlon-1.0-data" / "svhn"
    assert data.example("train", 19) == {
        "id": "svhn/train/0010/000002.jpg",
        "image": f"{folder}/train/0010/000002.jpg",
        "label": 9,
    }
    # The annotations name test images from the last to the first: 3000 is 000003.jpg.
    assert data.example("test", 0) == {"id": "svhn/test/3002", "image": f"{folder}/test/000001.jpg", "label": -1}


def test_raw_files_are_pictures_and_annotations_and_none_without_the_set(tmp_path, raw):
    pictures = sorted((raw / "decathlon-1.0-data").rglob("*.jpg"))
    annotations = [raw / "annotations" / f"svhn_{kind}.json" for kind in ("train", "val", "test_stripped")]
    in_order = [path for split in ("train", "val", "test") for path in pictures if f"/svhn/{split}/" in str(path)]
    assert list(make(tmp_path).raw_files()) == [str(path) for path in (*in_order, *annotations)]
    (raw / "decathlon-1.0-data").rename(raw / "gone")
    assert list(make(tmp_path).raw_files()) == []


@pytest.mark.parametrize("order", ["annotations first", "categories first"])
def test_lists_in_any_order_are_joined(tmp_path, raw, order):
    for split in ("train", "val"):
        path = raw / "annotations" / f"svhn_{split}.json"
        content = json.loads(path.read_text())
        random.Random(1).shuffle(content["annotations"])
        for entry in content["annotations"]:
            entry |= {"area": 1.5, "bbox": [0, 0, 9.25, 9], "iscrowd": 0, "segmentation": {"images": [{"id": 1}]}}
        keys = ("annotations", "categories", "images") if order == "annotations first" else ("categories", "images")
        reordered = {key: content.pop(key) for key in keys} | content | {"info": {"images": [{"id": 7}]}}
        path.write_text(json.dumps(reordered))
    data = make(tmp_path)
    data.check_raw()
    assert data.extra_metadata() == {"category_ids": list(range(900, 890, -1))}


def test_test_images_that_share_an_id_are_refused(tmp_path, raw):
    path = raw / "annotations" / "svhn_test_stripped.json"
    edit(path, lambda content: content["images"][0].update(id=content["images"][1]["id"]))
    with pytest.raises(RawDataError, match=r"svhn_test_stripped\.json: several images have the id 3001\. Get"):
        make(tmp_path).check_raw()


def write_many(root, pictures):
    """Writes svhn with `pictures` links to one picture per training class, and annotations like the release's."""
    data = root / "decathlon-1.0-data" / "svhn"
    (root / "annotations").mkdir(parents=True)
    (root / "first.jpg").write_bytes(drawn(1))
    categories = [{"id": label, "name": f"class {label}"} for label in range(10)]
    for split, count in (("train", pictures), ("val", 1)):
        images = []
        for label in range(10):
            (data / split / f"{label:04d}").mkdir(parents=True)
            for number in range(count):
                os.link(root / "first.jpg", data / split / f"{label:04d}" / f"{number:06d}.jpg")
                file = f"data/svhn/{split}/{label:04d}/{number:06d}.jpg"
                images.append({"file_name": file, "id": 10**7 + len(images), "width": 9, "height": 9, "license": 1})
        annotations = [
            {"id": image["id"], "image_id": image["id"], "category_id": int(image["file_name"].split("/")[3])}
            | {"area": 81.0, "bbox": [0, 0, 9, 9], "iscrowd": 0}
            for image in images
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"svhn_{split}.json").write_text(json.dumps(content))


def peak_bytes(folder, pictures):
    write_many(folder / "raw", pictures)
    tracemalloc.start()
    try:
        data = make(folder)
        data.check_raw()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert data.split_sizes() == {"train": 10 * pictures, "val": 10}
    return peak


def test_annotations_are_checked_in_little_memory(tmp_path):
    peak_bytes(tmp_path / "first", 1)  # whatever is imported or cached once
    few, many = peak_bytes(tmp_path / "few", 50), peak_bytes(tmp_path / "many", 250)
    # As JSON objects they take 1000 bytes per picture and more: above 1 GB for ImageNet.
    assert (many - few) / 2000 < 250
