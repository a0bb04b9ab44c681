"""Class folders in practice: links, stray files, other formats, unusual names, and very many images."""

import os
import shutil
import tracemalloc
import unicodedata

import numpy as np
import pytest
from helpers.decathlon_release import drawn, write_folders

from mtan_jax.data.decathlon import DecathlonSet
from mtan_jax.data.errors import RawDataError

COUNTS = {"train": {"zebra": 2, "ant": 1}, "val": {"zebra": 1, "ant": 1}}
LOGGER = "mtan_jax.data.decathlon.folders"


@pytest.fixture
def animals(tmp_path):
    write_folders(tmp_path / "raw", "animals", COUNTS)
    return tmp_path / "raw" / "animals"


def make(tmp_path, set_name="animals"):
    return DecathlonSet(
        set_name=set_name, layout="folders", data_dir=str(tmp_path / "prepared"), raw_dir=str(tmp_path / "raw")
    )


def sizes(tmp_path):
    data = make(tmp_path)
    data.check_raw()
    return data.split_sizes()


def error_message(tmp_path):
    with pytest.raises(RawDataError) as error:
        make(tmp_path).check_raw()
    return str(error.value)


def logged(caplog):
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


# Formats, stray files and skipped files


def test_images_of_other_formats_are_listed(tmp_path, animals, caplog):
    for name in ("a.webp", "b.BMP", "c.tiff", "d.gif", "e.jp2", "f.JPEG"):
        (animals / "train" / "ant" / name).touch()
    assert sizes(tmp_path) == {"train": 9, "val": 2}
    assert logged(caplog) == []


def test_stray_files_and_folders_are_skipped_silently(tmp_path, animals, caplog):
    for place in (animals, animals / "train", animals / "val", animals / "train" / "zebra"):
        for folder in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".AppleDouble", "#recycle", "lost+found"):
            (place / folder).mkdir()
            (place / folder / "1.jpg").touch()
        for file in ("._000001.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.png"):
            (place / file).touch()
    data = make(tmp_path)
    data.check_raw()
    assert data.class_names() == ("ant", "zebra")
    assert data.split_sizes() == {"train": 3, "val": 2}
    assert len(list(data.raw_files())) == 5
    assert logged(caplog) == []


def test_skipped_files_are_counted_in_one_line(tmp_path, animals, caplog):
    for name in ("train/zebra/notes.txt", "train/ant/more.TXT", "val/paper.pdf", "val/zebra/LICENSE"):
        (animals / name).touch()
    (animals / "train" / "loose.jpg").touch()
    (animals / "train" / "zebra" / "crops").mkdir()
    sizes(tmp_path)
    assert logged(caplog) == [
        f"{animals}: skipped 1 image outside the class folders, such as train/loose.jpg; 4 files that are not images "
        "(2 .txt, 1 .pdf, 1 without suffix), such as train/ant/more.TXT; 1 folder inside a class folder, such as "
        "train/zebra/crops"
    ]


def test_images_in_folders_inside_a_class_are_reported(tmp_path, animals):
    shutil.move(animals / "train" / "ant", animals / "train" / "ants")
    (animals / "train" / "ant").mkdir()
    shutil.move(animals / "train" / "ants", animals / "train" / "ant" / "images")
    assert error_message(tmp_path) == (
        f"{animals}/train/ant: contains no images but the folder {animals}/train/ant/images. Move the images into the "
        "class folder itself."
    )


def test_classes_without_validation_images_are_logged(tmp_path, animals, caplog):
    shutil.rmtree(animals / "val" / "ant")
    assert sizes(tmp_path) == {"train": 3, "val": 1}
    assert logged(caplog) == [f"{animals}: 1 of 2 classes have no folder in val, such as 'ant'"]


def test_a_pipe_with_an_image_name_is_not_opened(tmp_path, animals, caplog):
    os.mkfifo(animals / "train" / "ant" / "x.jpg")
    assert sizes(tmp_path) == {"train": 3, "val": 2}
    assert "1 file that is not an image (1 .jpg), such as train/ant/x.jpg" in logged(caplog)[0]


# Links


def test_raw_files_behind_links_are_found(tmp_path, animals):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(animals / "train" / "zebra", elsewhere / "zebra")
    (animals / "train" / "zebra").symlink_to(elsewhere / "zebra")
    shutil.move(animals / "val", elsewhere / "val")
    (animals / "val").symlink_to(elsewhere / "val")
    (animals / "train" / "ant" / "linked.jpg").symlink_to(elsewhere / "zebra" / "000001.jpg")
    data = make(tmp_path)
    expected = [
        *("train/ant/000001.jpg", "train/ant/linked.jpg", "train/zebra/000001.jpg", "train/zebra/000002.jpg"),
        *("val/ant/000001.jpg", "val/zebra/000001.jpg"),
    ]
    assert list(data.raw_files()) == [f"{animals}/{file}" for file in expected]
    data.check_raw()
    assert data.split_sizes() == {"train": 4, "val": 2}
    (elsewhere / "zebra" / "000003.jpg").write_bytes(drawn(50))
    assert f"{animals}/train/zebra/000003.jpg" in list(data.raw_files())  # the same builder lists the files again


def test_loops_of_links_end(tmp_path, animals, caplog):
    (animals / "train" / "zebra" / "again").symlink_to(animals / "train")
    (animals / "train" / "ant" / "self").symlink_to("self")
    assert error_message(tmp_path).startswith(f"{animals}/train/ant/self: links to self, which cannot be read (")
    (animals / "train" / "ant" / "self").unlink()
    assert sizes(tmp_path) == {"train": 3, "val": 2}
    assert len(list(make(tmp_path).raw_files())) == 5
    assert logged(caplog)[0].endswith("skipped 1 folder inside a class folder, such as train/zebra/again")


@pytest.mark.parametrize("link", ["train/zebra/3.jpg", "train/newt", "val/zebra/more"])
def test_dangling_links_are_named(tmp_path, animals, link):
    (animals / link).symlink_to("/nowhere/at/all")
    message = error_message(tmp_path)
    assert message.startswith(f"{animals}/{link}: links to /nowhere/at/all, which cannot be read (No such file")
    assert message.endswith("Correct or remove the link.")


def test_a_link_with_an_image_name_to_a_folder_is_reported(tmp_path, animals):
    (animals / "val" / "ant" / "x.png").symlink_to(animals)
    assert error_message(tmp_path).startswith(
        f"{animals}/val/ant/x.png: links to {animals}, which cannot be read (not a file)"
    )


# Names


def test_file_names_that_are_not_utf8_are_reported(tmp_path, animals):
    (animals / "train" / "ant" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(drawn(1))
    message = error_message(tmp_path)
    assert message.startswith(f"{animals}/train/ant/caf\\xe9.jpg: the name is not valid UTF-8")
    message.encode()  # printable


def test_class_names_that_are_not_utf8_are_reported(tmp_path, animals):
    for split in ("train", "val"):
        (animals / split / "ant").rename(animals / split / os.fsdecode(b"\xfcber"))
    assert error_message(tmp_path).startswith(f"{animals}/train/\\xfcber: the name is not valid UTF-8")


def test_skipped_names_that_are_not_utf8_can_be_logged(tmp_path, animals, caplog):
    (animals / "train" / "ant" / os.fsdecode(b"\xfcber.t\xe9xt")).touch()
    sizes(tmp_path)
    assert "(1 .t\\xe9xt), such as train/ant/\\xfcber.t\\xe9xt" in logged(caplog)[0]
    logged(caplog)[0].encode()


def test_classes_that_differ_from_train_only_by_case_are_reported(tmp_path, animals):
    (animals / "val" / "zebra").rename(animals / "val" / "Zebra")
    assert error_message(tmp_path) == (
        f"{animals}/val/Zebra: this class is not in train, where a similar name differs only by case or Unicode "
        "normalization: 'zebra' in train, 'Zebra' here. Give both the same name."
    )


def composed_and_decomposed(name="käfer"):
    return unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)


def test_classes_that_differ_from_train_only_by_unicode_normalization_are_reported(tmp_path, animals):
    composed, decomposed = composed_and_decomposed()
    (animals / "train" / "ant").rename(animals / "train" / composed)
    (animals / "val" / "ant").rename(animals / "val" / decomposed)
    message = error_message(tmp_path)
    assert "this class is not in train, where a similar name differs only by case or Unicode normalization" in message
    assert r"'k\xe4fer' in train, 'ka\u0308fer' here" in message


def test_two_classes_that_look_the_same_are_an_error(tmp_path, animals):
    for name in composed_and_decomposed():
        write_folders(tmp_path / "raw", "animals", {"train": {name: 1}})
    message = error_message(tmp_path)
    assert message.startswith(f"{animals}/train: two class folders have names that look like ")
    assert r"'ka\u0308fer' and 'k\xe4fer'. Merge them." in message


def test_classes_that_differ_only_by_case_are_separate_and_logged(tmp_path, caplog):
    letters = {"A": 1, "a": 1, "B": 1, "b": 1}
    write_folders(tmp_path / "raw", "letters", {"train": letters, "val": letters})
    data = make(tmp_path, "letters")
    data.check_raw()
    assert data.class_names() == ("A", "B", "a", "b")
    assert logged(caplog) == [
        f"{tmp_path}/raw/letters: 2 class names differ from another one only by case, such as 'A' and 'a'; they are "
        "separate classes"
    ]


# Many images


def write_many(root, classes, images_per_class):
    """Writes a dataset of links to one image, with names of about 20 letters, like those of ImageNet."""
    first = root / "first.jpg"
    root.mkdir(parents=True)
    first.write_bytes(drawn(1))
    for label in range(classes):
        for split, count in (("train", images_per_class), ("val", 1)):
            folder = root / "many" / split / f"n{label:08d}"
            folder.mkdir(parents=True)
            for number in range(count):
                os.link(first, folder / f"n{label:08d}_{number:06d}.jpg")


def test_examples_are_those_of_a_plain_list_in_any_order(tmp_path):
    write_many(tmp_path / "raw", 5, 7)
    (tmp_path / "raw" / "many" / "test").mkdir()
    os.link(tmp_path / "raw" / "first.jpg", tmp_path / "raw" / "many" / "test" / "x.jpg")
    data, root = make(tmp_path, "many"), tmp_path / "raw"
    for split in ("train", "val", "test"):
        plain = sorted((root / "many" / split).rglob("*.jpg"))
        assert data.split_sizes()[split] == len(plain)
        for index in np.random.default_rng(0).permutation(len(plain)):
            label = -1 if split == "test" else int(plain[index].parent.name[1:])
            assert data.example(split, int(index)) == {
                "id": plain[index].relative_to(root).as_posix(),
                "image": str(plain[index]),
                "label": label,
            }
        for outside in (-1, len(plain)):
            with pytest.raises(IndexError, match=f"index {outside} is out of range for a split of {len(plain)} images"):
                data.example(split, outside)


def test_a_listing_takes_a_few_bytes_per_image(tmp_path):
    write_many(tmp_path / "raw", 20, 500)
    make(tmp_path, "many").check_raw()  # fills caches and imports modules
    tracemalloc.start()
    try:
        data = make(tmp_path, "many")
        data.check_raw()
        kept, peak = tracemalloc.get_traced_memory()
        before = kept
        count = sum(1 for _ in data.raw_files())
        _, peak_of_files = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 10020
    # A name has 20 bytes. Separate strings with label and id would take 300, or 400 MB for ImageNet.
    assert kept / count < 60
    assert peak / count < 80
    assert max(peak_of_files - before, 0) / count < 60


def test_listing_calls_stat_for_no_image(tmp_path, monkeypatch):
    write_many(tmp_path / "raw", 2, 50)
    data = make(tmp_path, "many")
    stat_calls = []
    plain_stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: stat_calls.append(str(path)) or plain_stat(path, **options))
    data.check_raw()
    assert data.split_sizes() == {"train": 100, "val": 2}
    assert [path for path in stat_calls if path.endswith(".jpg")] == []


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, animals, monkeypatch):
    plain_scandir = os.scandir

    def scandir(path):
        if str(path).endswith("zebra"):  # simulated, since root can read every folder
            raise PermissionError(13, "Permission denied")
        return plain_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert error_message(tmp_path) == f"{animals}/train/zebra: the folder cannot be listed (Permission denied)."
