"""Class folders as users have them: links, stray files, other formats, odd names, and very many pictures."""

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


def refused(tmp_path):
    with pytest.raises(RawDataError) as error:
        make(tmp_path).check_raw()
    return str(error.value)


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


# Formats, stray files, and what is left out


def test_pictures_of_other_formats_do_not_vanish(tmp_path, animals, caplog):
    for name in ("a.webp", "b.BMP", "c.tiff", "d.gif", "e.jp2", "f.JPEG"):
        (animals / "train" / "ant" / name).touch()
    assert sizes(tmp_path) == {"train": 9, "val": 2}
    assert messages(caplog) == []


def test_stray_files_and_folders_are_skipped_where_they_cannot_be_meant(tmp_path, animals, caplog):
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
    assert messages(caplog) == []


def test_files_left_out_are_counted_in_one_line(tmp_path, animals, caplog):
    for name in ("train/zebra/notes.txt", "train/ant/more.TXT", "val/paper.pdf", "val/zebra/LICENSE"):
        (animals / name).touch()
    (animals / "train" / "loose.jpg").touch()
    (animals / "train" / "zebra" / "crops").mkdir()
    sizes(tmp_path)
    assert messages(caplog) == [
        f"{animals}: left out 1 picture outside the class folders, such as train/loose.jpg; 4 files that are no "
        "pictures (2 .txt, 1 .pdf, 1 without suffix), such as train/ant/more.TXT; 1 folder inside a class folder, such "
        "as train/zebra/crops"
    ]


def test_pictures_in_folders_inside_a_class_are_not_taken_for_an_empty_class(tmp_path, animals):
    shutil.move(animals / "train" / "ant", animals / "train" / "ants")
    (animals / "train" / "ant").mkdir()
    shutil.move(animals / "train" / "ants", animals / "train" / "ant" / "images")
    assert refused(tmp_path) == (
        f"{animals}/train/ant: holds no pictures but the folder {animals}/train/ant/images. Pictures must lie in the "
        "class folder itself: move them there."
    )


def test_classes_without_validation_pictures_are_mentioned(tmp_path, animals, caplog):
    shutil.rmtree(animals / "val" / "ant")
    assert sizes(tmp_path) == {"train": 3, "val": 1}
    assert messages(caplog) == [f"{animals}: 1 of 2 classes have no folder in val, such as 'ant'"]


def test_a_pipe_with_a_pictures_name_is_not_opened(tmp_path, animals, caplog):
    os.mkfifo(animals / "train" / "ant" / "x.jpg")
    assert sizes(tmp_path) == {"train": 3, "val": 2}
    assert "1 file that is no picture (1 .jpg), such as train/ant/x.jpg" in messages(caplog)[0]


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
    assert f"{animals}/train/zebra/000003.jpg" in list(data.raw_files())  # of the same builder: nothing is kept


def test_loops_of_links_end(tmp_path, animals, caplog):
    (animals / "train" / "zebra" / "again").symlink_to(animals / "train")
    (animals / "train" / "ant" / "self").symlink_to("self")
    assert refused(tmp_path).startswith(f"{animals}/train/ant/self: a link to self, which cannot be read (")
    (animals / "train" / "ant" / "self").unlink()
    assert sizes(tmp_path) == {"train": 3, "val": 2}
    assert len(list(make(tmp_path).raw_files())) == 5
    assert messages(caplog)[0].endswith("left out 1 folder inside a class folder, such as train/zebra/again")


@pytest.mark.parametrize("link", ["train/zebra/3.jpg", "train/newt", "val/zebra/more"])
def test_dangling_links_are_named(tmp_path, animals, link):
    (animals / link).symlink_to("/nowhere/at/all")
    message = refused(tmp_path)
    assert message.startswith(f"{animals}/{link}: a link to /nowhere/at/all, which cannot be read (No such file")
    assert message.endswith("Remove the link or correct it.")


def test_a_link_from_a_pictures_name_to_a_folder_is_named(tmp_path, animals):
    (animals / "val" / "ant" / "x.png").symlink_to(animals)
    assert refused(tmp_path).startswith(
        f"{animals}/val/ant/x.png: a link to {animals}, which cannot be read (not a file)"
    )


# Names


def test_file_names_that_are_no_utf8_are_reported(tmp_path, animals):
    (animals / "train" / "ant" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(drawn(1))
    message = refused(tmp_path)
    assert message.startswith(f"{animals}/train/ant/caf\\xe9.jpg: the name is not valid UTF-8")
    message.encode()  # can be printed anywhere


def test_class_names_that_are_no_utf8_are_reported(tmp_path, animals):
    for split in ("train", "val"):
        (animals / split / "ant").rename(animals / split / os.fsdecode(b"\xfcber"))
    assert refused(tmp_path).startswith(f"{animals}/train/\\xfcber: the name is not valid UTF-8")


def test_other_names_that_are_no_utf8_can_be_logged(tmp_path, animals, caplog):
    (animals / "train" / "ant" / os.fsdecode(b"\xfcber.t\xe9xt")).touch()
    sizes(tmp_path)
    assert "(1 .t\\xe9xt), such as train/ant/\\xfcber.t\\xe9xt" in messages(caplog)[0]
    messages(caplog)[0].encode()


def test_classes_that_differ_from_those_of_train_by_case_alone_are_told(tmp_path, animals):
    (animals / "val" / "zebra").rename(animals / "val" / "Zebra")
    assert refused(tmp_path) == (
        f"{animals}/val/Zebra: a class that train lacks; a class of train differs only by case or by composed "
        "characters: 'zebra' there, 'Zebra' here. Give both the same name."
    )


def composed_and_decomposed(name="käfer"):
    return unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)


def test_classes_of_other_unicode_normalisation_are_told(tmp_path, animals):
    composed, decomposed = composed_and_decomposed()
    (animals / "train" / "ant").rename(animals / "train" / composed)
    (animals / "val" / "ant").rename(animals / "val" / decomposed)
    message = refused(tmp_path)
    assert "a class that train lacks; a class of train differs only by case or by composed characters" in message
    assert r"'k\xe4fer' there, 'ka\u0308fer' here" in message


def test_two_classes_that_look_the_same_are_refused(tmp_path, animals):
    for name in composed_and_decomposed():
        write_folders(tmp_path / "raw", "animals", {"train": {name: 1}})
    message = refused(tmp_path)
    assert message.startswith(f"{animals}/train: two class folders are called ")
    assert r"'ka\u0308fer' and 'k\xe4fer'. Merge them." in message


def test_classes_that_differ_by_case_are_classes_and_mentioned(tmp_path, caplog):
    letters = {"A": 1, "a": 1, "B": 1, "b": 1}
    write_folders(tmp_path / "raw", "letters", {"train": letters, "val": letters})
    data = make(tmp_path, "letters")
    data.check_raw()
    assert data.class_names() == ("A", "B", "a", "b")
    assert messages(caplog) == [
        f"{tmp_path}/raw/letters: the names of 2 classes differ from others only by case, such as 'A' and 'a'; each is "
        "a class"
    ]


# Many pictures


def write_many(root, classes, pictures):
    """Writes a set of `classes` x `pictures` links to one picture, with names of some 20 letters, like ImageNet's."""
    first = root / "first.jpg"
    root.mkdir(parents=True)
    first.write_bytes(drawn(1))
    for label in range(classes):
        for split, count in (("train", pictures), ("val", 1)):
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
            with pytest.raises(IndexError, match=f"index {outside} of {len(plain)} pictures"):
                data.example(split, outside)


def test_a_listing_takes_a_few_bytes_per_picture(tmp_path):
    write_many(tmp_path / "raw", 20, 500)
    make(tmp_path, "many").check_raw()  # whatever is imported or cached once
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
    # A name has 20 bytes. As strings, with label and id, they would take 300: 400 MB for ImageNet.
    assert kept / count < 60
    assert peak / count < 80
    assert max(peak_of_files - before, 0) / count < 60


def test_no_picture_is_looked_at_to_list_it(tmp_path, monkeypatch):
    write_many(tmp_path / "raw", 2, 50)
    data = make(tmp_path, "many")
    looked_at = []
    plain_stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: looked_at.append(str(path)) or plain_stat(path, **options))
    data.check_raw()
    assert data.split_sizes() == {"train": 100, "val": 2}
    assert [path for path in looked_at if path.endswith(".jpg")] == []


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, animals, monkeypatch):
    plain_scandir = os.scandir

    def scandir(path):
        if str(path).endswith("zebra"):  # as for root, who runs tests in containers, every folder is readable
            raise PermissionError(13, "Permission denied")
        return plain_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert refused(tmp_path) == f"{animals}/train/zebra: the folder cannot be listed (Permission denied)."
