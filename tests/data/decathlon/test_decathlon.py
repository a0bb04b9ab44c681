import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers.decathlon_release import TFDSCopy, drawn, write_folders, write_official
from PIL import Image

from mtan_jax.data.decathlon import Decathlon, DecathlonSet
from mtan_jax.data.decathlon.results import coco_results, image_id, write_results
from mtan_jax.data.errors import RawDataError
from mtan_jax.data.raw.image_files import read_rgb

SAMPLE = Path(__file__).resolve().parents[4] / "shared" / "data" / "decathlon_sample"
AS_STORED = {"image": tfds.decode.SkipDecoding()}
COUNTS = {"train": {"zebra": 2, "ant": 1}, "val": {"zebra": 1}}


def make(tmp_path, set_name="animals", layout="folders", **options):
    folders = {"data_dir": str(tmp_path / "prepared"), "raw_dir": str(tmp_path / "raw")}
    return DecathlonSet(set_name=set_name, layout=layout, **folders | options)


def stored(builder, split):
    return list(builder.as_data_source(split, decoders=AS_STORED))


@pytest.fixture
def animals(tmp_path):
    write_folders(tmp_path / "raw", "animals", COUNTS)
    return tmp_path / "raw" / "animals"


@pytest.fixture
def digits(tmp_path):
    write_official(tmp_path / "raw", "svhn", 10)
    return tmp_path / "raw"


# Folders


def test_folders_are_stored_as_they_are(tmp_path, animals):
    (animals / "val" / "ant").mkdir()
    (animals / "val" / "ant" / "b.PNG").write_bytes(drawn(8, "png"))
    (animals / "val" / "ant" / "a.jpeg").write_bytes(drawn(9, grey=True))
    (animals / "val" / "ant" / "notes.txt").write_text("not a picture, and not asked for")
    (animals / "val" / "ant" / ".hidden.jpg").write_text("nor this")
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


def test_statistics_of_own_sets_by_hand(tmp_path):
    for split in ("train", "val"):
        for name, colour in {"a": (0, 51, 255), "b": (255, 51, 0)}.items():
            place = tmp_path / "raw" / "own" / split / name
            place.mkdir(parents=True)
            # 6 pixels of a, 2 of b: the mean is over pixels, not over pictures
            Image.new("RGB", (3 if name == "a" else 1, 2), colour).save(place / "1.png")
    data = make(tmp_path, "own")
    data.prepare()
    np.testing.assert_allclose(data.image_set.mean, [0.25, 0.2, 0.75], atol=1e-7)
    # of 1 with probability 1/4: sqrt(3)/4; of a constant: the smallest, 1e-6
    np.testing.assert_allclose(data.image_set.std, [3**0.5 / 4, 1e-6, 3**0.5 / 4], atol=1e-7)


def test_published_statistics_and_flips(tmp_path):
    infos = {}
    for name in ("dtd", "gtsrb", "omniglot", "svhn", "vgg-flowers"):
        write_folders(tmp_path / "raw", name, COUNTS)
        data = make(tmp_path, name)
        data.prepare()
        infos[name] = data.image_set
    assert [name for name, info in infos.items() if not info.flip] == ["gtsrb", "omniglot", "svhn"]
    # from the published file, to four digits
    np.testing.assert_allclose(infos["dtd"].mean, [0.5270, 0.4703, 0.4240], atol=5e-5)
    np.testing.assert_allclose(infos["dtd"].std, [0.2523, 0.2409, 0.2499], atol=5e-5)
    np.testing.assert_allclose(infos["omniglot"].mean, [0.0810] * 3, atol=5e-5)
    np.testing.assert_allclose(infos["vgg-flowers"].std, [0.2851, 0.2384, 0.2640], atol=5e-5)


# The release


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
    again = make(tmp_path, "svhn", "official", raw_dir=None)  # from what is kept with the prepared set
    assert (again.category_ids, again.image_set) == (data.category_ids, data.image_set)
    # The annotations name test images from the last to the first: 3000 is 000003.jpg.
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
    with pytest.raises(RawDataError, match=r"svhn/train: 9 classes; the official svhn has 10\. .*layout=folders"):
        make(tmp_path, "svhn", "official").prepare()
    # A part of a set is no official one, but a set.
    part = make(tmp_path, "svhn", raw_dir=str(tmp_path / "raw" / "decathlon-1.0-data"))
    part.prepare()
    assert len(part.image_set.classes) == 9


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
            r"names train/0010/9.jpg .and 0 more., which .*decathlon-1.0-data/svhn does not hold. .*layout=folders",
        ),
        (
            "val",
            change("annotations", lambda entries: entries[0].update(category_id=7)),
            "an annotation names the category 7, which is not among its categories",
        ),
        (
            "val",
            change("annotations", lambda entries: entries[0].update(image_id=7)),
            "an annotation names the image 7, which is not among its images",
        ),
        (
            "train",
            change("annotations", lambda entries: entries[0].update(category_id=900)),
            r"train/0010/00000\d.jpg is of the category \d+, others of its folder are of \d+",
        ),
        ("val", change("annotations", lambda entries: entries.pop(0)), "no annotation of val/0010/000001.jpg"),
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
            r"does not name .*svhn/test/000003.jpg .and 0 more.",
        ),
        ("test_stripped", lambda content: {}, "COCO annotations could not be read .KeyError"),
        ("train", lambda content: [], "COCO annotations could not be read .TypeError"),
    ],
)
def test_annotations_are_checked(tmp_path, digits, kind, edit, message):
    path = digits / "annotations" / f"svhn_{kind}.json"
    content = edit(json.loads(path.read_text()))
    path.write_text(json.dumps(content))
    if "10 classes" in message:  # of the validation images too, or these disagree first
        other = digits / "annotations" / "svhn_val.json"
        other.write_text(json.dumps(edit(json.loads(other.read_text()))))
    with pytest.raises(RawDataError, match=f"{re.escape(str(path))}: {message}"):
        make(tmp_path, "svhn", "official").prepare()
    assert not (tmp_path / "prepared").exists()


def test_damaged_annotations_are_named(tmp_path, digits):
    path = digits / "annotations" / "svhn_val.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(RawDataError, match=f"{re.escape(str(path))}: COCO annotations could not be read"):
        make(tmp_path, "svhn", "official").prepare()


def test_missing_annotations(tmp_path, digits):
    (digits / "annotations" / "svhn_test_stripped.json").unlink()
    with pytest.raises(RawDataError) as error:
        make(tmp_path, "svhn", "official").prepare()
    name = "svhn_test_stripped.json"
    assert f"There is neither annotations/{name} nor decathlon-1.0/annotations/{name}." in str(error.value)
    assert "https://www.robots.ox.ac.uk/~vgg/decathlon" in str(error.value)


def test_category_ids_come_with_the_release_alone(tmp_path, animals, digits):
    with pytest.raises(ValueError, match=r"svhn has no category ids .* prepare it with .*layout=official"):
        _ = make(tmp_path, "svhn", "official").category_ids  # not prepared yet
    data = make(tmp_path)
    data.prepare()
    with pytest.raises(ValueError, match="animals has no category ids"):
        _ = data.category_ids


# TFDS' copy


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
    shutil.rmtree(copy)  # 1.2.0, which is the last by name
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
        f"{copy}: prepared as tfrecord, which cannot be read without TensorFlow",
        f"tfds convert_format --dataset_version_dir={copy} --out_file_format=array_record",
        "tfds build visual_domain_decathlon/svhn --file_format=array_record",
    ]:
        assert part in str(error.value)
    # As convert_format leaves it: both formats, side by side.
    path.write_text(json.dumps(content | {"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}))
    check_copy(data)


def test_tfds_missing(tmp_path, copy):
    with pytest.raises(RawDataError) as error:
        make(tmp_path, "dtd", "tfds", raw_dir=None).prepare()
    assert f"the set 'dtd' is not prepared in {tmp_path}/prepared" in str(error.value)
    assert "tfds build visual_domain_decathlon/SET --file_format=array_record" in str(error.value)


def test_tfds_without_validation(tmp_path, copy):
    path = copy / "dataset_info.json"
    content = json.loads(path.read_text())
    content["splits"] = [split for split in content["splits"] if split["name"] != "validation"]
    path.write_text(json.dumps(content))
    with pytest.raises(RawDataError, match=f"{re.escape(str(copy))}: no split 'validation'; there are: "):
        make(tmp_path, "svhn", "tfds", raw_dir=None).prepare()


# All sets together


def test_sets_together(tmp_path, animals, digits):
    write_folders(tmp_path / "raw", "plants", COUNTS)
    folders = {"data_dir": str(tmp_path / "prepared"), "raw_dir": str(tmp_path / "raw")}
    data = Decathlon(datasets=["plants", "animals"], **folders)
    assert data.targets == ("plants", "animals")
    assert data.data_info.image_size == (72, 72)
    data.prepare()
    prepared_once = {path: path.stat().st_mtime_ns for path in (tmp_path / "prepared").rglob("*.array_record*")}
    assert len(prepared_once) == 4
    again = Decathlon(datasets=["animals"], image_size=(64, 48), data_dir=folders["data_dir"])
    again.prepare()  # neither raw data nor another preparation
    assert again.data_info.image_size == (64, 48)
    assert again.data_info.sets["animals"] == data.data_info.sets["animals"]
    assert {path: path.stat().st_mtime_ns for path in prepared_once} == prepared_once
    # Layouts of one set do not mix.
    layouts = ("official", "folders", "tfds")
    assert len({make(tmp_path, "svhn", layout).data_dir for layout in layouts}) == len(layouts)


def test_the_ten(tmp_path):
    data = Decathlon(data_dir=str(tmp_path), layout="official")
    assert data.targets == (
        *("imagenet12", "aircraft", "cifar100", "daimlerpedcls", "dtd"),
        *("gtsrb", "omniglot", "svhn", "ucf101", "vgg-flowers"),
    )
    assert all(builder.known_statistics() for builder in data.builders.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "zips"}, "layout: got 'zips'; expected one of 'official', 'folders', 'tfds', 'auto'"),
        ({"layout": "official", "datasets": ["animals"]}, "datasets: got 'animals'; expected one of 'imagenet12', "),
        ({"layout": "tfds", "datasets": ["dtd", "SVHN"]}, "datasets: got 'SVHN'; expected one of 'imagenet12', "),
        ({"datasets": "dtd"}, "datasets: got 'dtd'; expected different names of sets, such as ('dtd', 'svhn')"),
        ({"datasets": []}, "datasets: got []; expected different names"),
        ({"datasets": ["dtd", "dtd"]}, "datasets: got ['dtd', 'dtd']; expected different names"),
        ({"datasets": ["a/b"]}, "datasets: got 'a/b'; expected the name of a folder"),
        ({"datasets": [".."]}, "datasets: got '..'; expected the name of a folder"),
        ({"image_size": (0, 72)}, "image_size: got (0, 72); expected height and width"),
    ],
)
def test_arguments_are_checked(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Decathlon(data_dir=str(tmp_path), **options)


# Missing and damaged raw data


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
def test_all_sets_that_lack_raw_data_are_named(tmp_path, animals, layout):
    make(tmp_path).prepare()
    names = {"folders": ("dtd", "animals", "svhn")}.get(layout, ("dtd", "svhn"))
    data = Decathlon(datasets=names, layout=layout, data_dir=str(tmp_path / "prepared"))
    with pytest.raises(RawDataError, match=r"'dtd'[\s\S]*\n  Sets that are not prepared yet: dtd, svhn\.$"):
        data.prepare()


@pytest.mark.parametrize(
    ("layout", "name", "message"),
    [
        ("folders", "dtd", "There is no set 'dtd': {raw} holds animals, notes.txt."),
        ("official", "dtd", "There is no set 'dtd': {raw}/decathlon-1.0-data holds aircraft.tar, svhn."),
        (
            "official",
            "aircraft",
            "There is no set 'aircraft': {raw}/decathlon-1.0-data holds aircraft.tar, svhn. "
            "Extract {raw}/decathlon-1.0-data/aircraft.tar.",
        ),
    ],
)
def test_missing_set_tells_what_is_there(tmp_path, layout, name, message):
    raw = tmp_path / "raw"
    if layout == "folders":
        write_folders(raw, "animals", COUNTS)
        (raw / "notes.txt").touch()
    else:
        write_official(raw, "svhn", 10)
        (raw / "decathlon-1.0-data" / "aircraft.tar").touch()
    with pytest.raises(RawDataError, match=re.escape(message.format(raw=raw))):
        make(tmp_path, name, layout).prepare()


def test_wrong_layout_is_told(tmp_path, digits):
    with pytest.raises(RawDataError, match=r"layout 'official': set --config.data.options.layout=official"):
        make(tmp_path, "svhn").prepare()
    write_folders(tmp_path / "own", "svhn", COUNTS)
    with pytest.raises(RawDataError, match=r"layout 'folders': set --config.data.options.layout=folders"):
        make(tmp_path, "svhn", "official", raw_dir=str(tmp_path / "own")).prepare()


@pytest.mark.parametrize(("split", "rest"), [("train", "val"), ("val", "train")])
def test_missing_split(tmp_path, animals, split, rest):
    shutil.rmtree(animals / split)
    message = f"There is no split '{split}' of 'animals': {animals} holds {rest}."
    with pytest.raises(RawDataError, match=re.escape(message)):
        make(tmp_path).prepare()


@pytest.mark.parametrize(
    ("split", "message"), [("train", "train holds no folders of classes."), ("val", "val holds no pictures.")]
)
def test_empty_split(tmp_path, animals, split, message):
    shutil.rmtree(animals / split)
    (animals / split).mkdir()
    with pytest.raises(RawDataError, match=re.escape(f"{animals}/{message}")):
        make(tmp_path).prepare()


def test_empty_class(tmp_path, animals):
    (animals / "train" / "newt").mkdir()
    (animals / "train" / "newt" / "1.txt").touch()
    message = f"{animals}/train/newt: holds no pictures (it holds 1.txt). Fill the folder or remove it."
    with pytest.raises(RawDataError, match=re.escape(message)):
        make(tmp_path).prepare()


@pytest.mark.parametrize("split", ["val", "test"])
def test_class_that_train_lacks(tmp_path, animals, split):
    write_folders(tmp_path / "raw", "animals", {split: {"newt": 1}})
    message = f"{animals}/{split}/newt: a class that train lacks; {animals}/train holds ant, zebra. Add it there"
    with pytest.raises(RawDataError, match=re.escape(message)):
        make(tmp_path).prepare()


@pytest.mark.parametrize("name", ["animals", "dtd"])  # without and with published statistics
@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: b"a text", lambda data: data[: len(data) - 40]],
    ids=["empty", "text", "truncated"],
)
def test_damaged_picture_is_named_and_read_once_it_is_repaired(tmp_path, name, damage):
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


def test_grey_pictures_of_16_bits_do_not_saturate(tmp_path):
    values = np.array([[0, 255, 256, 300], [32768, 40000, 65000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    by_hand = [[0, 0, 1, 1], [128, 156, 253, 255]]  # divided by 256
    np.testing.assert_array_equal(read_rgb(tmp_path / "deep.png", "")[..., 0], by_hand)
    assert read_rgb((tmp_path / "deep.png").read_bytes(), "").shape == (2, 4, 3)


def test_huge_picture_is_named(tmp_path, animals, monkeypatch):
    path = animals / "train" / "zebra" / "000002.jpg"
    Image.new("L", (30, 30)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # Pillow refuses twice as many; the others have 156 at most
    with pytest.raises(RawDataError, match=f"{re.escape(str(path))}: too large: 900 pixels; the limit is 400"):
        make(tmp_path).prepare()


@pytest.mark.parametrize("file", ["annotations/svhn_val.json", "decathlon-1.0-data/svhn/test/000001.jpg"])
def test_other_raw_files_are_not_ignored(tmp_path, digits, file):
    make(tmp_path, "svhn", "official").prepare()
    make(tmp_path, "svhn", "official").prepare()  # the same files: as it is
    (digits / file).write_bytes((digits / file).read_bytes() + b" ")
    with pytest.raises(RawDataError, match="prepared from other files than those in"):
        make(tmp_path, "svhn", "official").prepare()
    shutil.rmtree(digits)
    make(tmp_path, "svhn", "official").prepare()  # the folder given is gone: the prepared set is used


def test_another_copy_by_tfds_is_not_ignored(tmp_path, copy):
    make(tmp_path, "svhn", "tfds", raw_dir=None).prepare()
    raw = tmp_path / "raw" / copy.relative_to(tmp_path / "prepared")
    shutil.copytree(copy, raw)
    make(tmp_path, "svhn", "tfds").prepare()  # the same files elsewhere
    (raw / "dataset_info.json").write_text((raw / "dataset_info.json").read_text() + " ")
    with pytest.raises(RawDataError, match="prepared from other files than those in"):
        make(tmp_path, "svhn", "tfds").prepare()


# The results file


def test_results_by_hand(tmp_path):
    ids = {"dtd": [31, 30, 35], "svhn": np.array([7, 8])}
    predictions = {"svhn": [(3001, 1)], "dtd": [(2001, 0), (np.int64(2002), np.int32(2)), (2003, 0)]}
    results = coco_results(predictions, ids)
    assert results == [
        {"image_id": 3001, "category_id": 8},
        {"image_id": 2001, "category_id": 31},
        {"image_id": 2002, "category_id": 35},
        {"image_id": 2003, "category_id": 31},
    ]
    write_results(tmp_path / "results.json", results)
    assert json.loads((tmp_path / "results.json").read_text()) == results


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ({"svhn": [(1, 0)]}, "There are no category ids of 'svhn'; there are those of dtd"),
        ({"dtd": [(1, 2)]}, "dtd: the image 1 has the label 2, which has no category id; there are 2"),
        ({"dtd": [(1, -1)]}, "dtd: the image 1 has the label -1"),
        ({"dtd": [(1, 0), (1, 1)]}, "dtd: the image 1 has two predictions"),
    ],
)
def test_results_are_checked(predictions, message):
    with pytest.raises(ValueError, match=message):
        coco_results(predictions, {"dtd": [30, 31]})


def test_image_ids():
    assert image_id("vgg-flowers/test/10000001") == 10000001
    for other in ("dtd/train/0001/000001.jpg", "dtd/test/000001.jpg", "dtd/val/12", ""):
        with pytest.raises(ValueError, match=f"The example '{other}' has no id in the challenge"):
            image_id(other)


# Real pictures


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs the real pictures in the folder `shared` beside the repository")
def test_real_pictures(tmp_path):
    data = Decathlon(data_dir=str(tmp_path), raw_dir=str(SAMPLE), datasets=["dtd", "gtsrb", "omniglot"])
    data.prepare()
    expected = {"dtd": (960, 240, 10), "gtsrb": (1450, 326, 43), "omniglot": (1500, 500, 100)}
    for name, (train, val, classes) in expected.items():
        builder = data.builders[name]
        sizes = {split: builder.info.splits[split].num_examples for split in ("train", "val")}
        assert sizes == {"train": train, "val": val}
        assert len(data.data_info.sets[name].classes) == classes
        example = builder.as_data_source("val", decoders=AS_STORED)[val // 2]
        path = SAMPLE / example["id"].decode()
        assert example["image"] == path.read_bytes()
        assert data.data_info.sets[name].classes[example["label"]] == path.parent.name
        with Image.open(path) as picture:
            np.testing.assert_array_equal(read_rgb(example["image"], name), np.asarray(picture.convert("RGB")))


def test_without_data_the_official_sets_have_their_numbers_of_classes(tmp_path):
    info = Decathlon(data_dir=str(tmp_path), layout="official").data_info
    assert [len(found.classes) for found in info.sets.values()] == [1000, 100, 100, 2, 47, 43, 1623, 10, 101, 102]


def test_sets_of_ones_own_that_must_not_be_mirrored(tmp_path):
    sets = Decathlon(data_dir=str(tmp_path), datasets=("letters", "cats", "svhn"), unflipped=("letters",))
    assert [builder.flip for builder in sets.builders.values()] == [False, True, False]
    with pytest.raises(ValueError, match=r"unflipped: got 'digits'; expected some of the sets letters, cats\."):
        Decathlon(data_dir=str(tmp_path), datasets=("letters", "cats"), unflipped=("digits",))
