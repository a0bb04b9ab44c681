"""Annotations of the official layout: streamed, joined by id and name, and read only when needed."""

import json
import os
import random
import re
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


def test_only_examples_of_test_images_need_annotations(tmp_path, raw):
    for split in ("train", "val"):
        (raw / "annotations" / f"svhn_{split}.json").unlink()
    data = make(tmp_path)
    folder = raw / "decathlon-1.0-data" / "svhn"
    assert data.example("train", 19) == {
        "id": "svhn/train/0010/000002.jpg",
        "image": f"{folder}/train/0010/000002.jpg",
        "label": 9,
    }
    # The annotations list test images in reverse order: 3000 is 000003.jpg.
    assert data.example("test", 0) == {"id": "svhn/test/3002", "image": f"{folder}/test/000001.jpg", "label": -1}


def test_raw_files_are_images_and_annotations(tmp_path, raw):
    images = sorted((raw / "decathlon-1.0-data").rglob("*.jpg"))
    annotations = [raw / "annotations" / f"svhn_{kind}.json" for kind in ("train", "val", "test_stripped")]
    in_order = [path for split in ("train", "val", "test") for path in images if f"/svhn/{split}/" in str(path)]
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
    with pytest.raises(RawDataError, match=r"svhn_test_stripped\.json: several images have the id 3001\. Download"):
        make(tmp_path).check_raw()


def change(key, edit):
    def changed(content):
        edit(content[key])
        return content

    return changed


@pytest.mark.parametrize(
    ("kind", "edit", "message"),
    [
        (
            "train",
            change("images", lambda images: images[0].update(file_name="data/svhn/train/0010/9.jpg")),
            r"lists train/0010/9.jpg .and 0 more., which is not in .*decathlon-1.0-data/svhn. .*layout=folders",
        ),
        (
            "val",
            change("annotations", lambda entries: entries[0].update(category_id=7)),
            "an annotation refers to category 7, which is not in the file",
        ),
        (
            "val",
            change("annotations", lambda entries: entries[0].update(image_id=7)),
            "an annotation refers to image 7, which is not in the file",
        ),
        (
            "train",
            change("annotations", lambda entries: entries[0].update(category_id=900)),
            r"train/0010/00000\d.jpg has category \d+, but others in its folder have \d+",
        ),
        ("val", change("annotations", lambda entries: entries.pop(0)), "val/0010/000001.jpg has no annotation"),
        (
            "train",
            change(
                "annotations", lambda entries: [e.update(category_id=900) for e in entries if e["category_id"] == 899]
            ),
            "10 classes have only 9 category ids",
        ),
        (
            "test_stripped",
            change("images", lambda images: images.pop(0)),
            r"does not list .*svhn/test/000003.jpg .and 0 more.",
        ),
        ("test_stripped", lambda content: {}, "cannot read COCO annotations .KeyError"),
        ("train", lambda content: [], "cannot read COCO annotations .TypeError"),
    ],
)
def test_annotations_are_checked(tmp_path, raw, kind, edit, message):
    path = raw / "annotations" / f"svhn_{kind}.json"
    content = edit(json.loads(path.read_text()))
    path.write_text(json.dumps(content))
    if "10 classes" in message:  # change validation too, or its disagreement is reported first
        other = raw / "annotations" / "svhn_val.json"
        other.write_text(json.dumps(edit(json.loads(other.read_text()))))
    with pytest.raises(RawDataError, match=f"{re.escape(str(path))}: {message}"):
        make(tmp_path).prepare()
    assert not (tmp_path / "prepared").exists()


def test_damaged_annotations_are_named(tmp_path, raw):
    path = raw / "annotations" / "svhn_val.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(RawDataError, match=f"{re.escape(str(path))}: cannot read COCO annotations"):
        make(tmp_path).prepare()


def write_many(root, images_per_class):
    """Writes svhn with `images_per_class` links to one image, and annotations like those of the release."""
    data = root / "decathlon-1.0-data" / "svhn"
    (root / "annotations").mkdir(parents=True)
    (root / "first.jpg").write_bytes(drawn(1))
    categories = [{"id": label, "name": f"class {label}"} for label in range(10)]
    for split, count in (("train", images_per_class), ("val", 1)):
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


def peak_bytes(folder, images_per_class):
    write_many(folder / "raw", images_per_class)
    tracemalloc.start()
    try:
        data = make(folder)
        data.check_raw()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert data.split_sizes() == {"train": 10 * images_per_class, "val": 10}
    return peak


def test_annotations_are_checked_in_little_memory(tmp_path):
    peak_bytes(tmp_path / "first", 1)  # fills caches and imports modules
    few, many = peak_bytes(tmp_path / "few", 50), peak_bytes(tmp_path / "many", 250)
    # As JSON objects they would take over 1000 bytes per image, more than 1 GB for ImageNet.
    assert (many - few) / 2000 < 250
