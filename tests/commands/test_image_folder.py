"""Which files of a folder are predicted, and what their results are called."""

import logging
import os
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from mtan_jax.commands.image_folder import check_lengths, find_images, name_results


def draw(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(path)


def test_pictures_of_all_formats_are_found_in_order(tmp_path):
    for name in ("b.webp", "a.PNG", "c.tif", "d.gif", "e.bmp"):
        draw(tmp_path / name)
    assert {name: path.name for name, path in find_images(tmp_path, False).items()} == {
        "a": "a.PNG",
        "b": "b.webp",
        "c": "c.tif",
        "d": "d.gif",
        "e": "e.bmp",
    }


def test_files_of_one_stem_keep_their_own_results(tmp_path):
    for name in ("a.jpg", "a.png", "b.png", "C.png", "c.jpg"):
        draw(tmp_path / name)
    assert list(find_images(tmp_path, False)) == ["C.png", "a.jpg", "a.png", "b", "c.jpg"]
    names = name_results(map(pathlib.Path, ("a.jpg", "a.jpg.jpg", "a.png", "a.png.png", "b.jpg", "b.c.jpg")))
    assert len({name.casefold() for name in names}) == 6
    assert list(names)[-2:] == ["b", "b.c"]


def test_names_too_long_for_their_results_are_refused(tmp_path):
    # Named after a fault: "[Errno 36] File name too long", once the checkpoint was loaded and others predicted.
    longest = "é" * 125 + "a"  # 251 bytes
    draw(tmp_path / f"{longest}.png")
    check_lengths(find_images(tmp_path, False), ".npz")
    draw(tmp_path / f"{longest}.bmp")
    with pytest.raises(ValueError, match=f"{longest}.bmp: the name is too long for its results; shorten it by 4 bytes"):
        check_lengths(find_images(tmp_path, False), ".npz")


def test_stray_files_are_skipped(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    draw(tmp_path / "a.png")
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_bytes(b"no picture")
    draw(tmp_path / ".ipynb_checkpoints" / "a-checkpoint.png")
    draw(tmp_path / "@eaDir" / "a.png")
    assert list(find_images(tmp_path, False)) == ["a"]
    assert not caplog.records


def test_what_is_left_out_is_counted_in_one_line(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    draw(tmp_path / "a.png")
    draw(tmp_path / "more" / "b.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.png").mkdir()
    for name in ("a.heic", "b.HEIC", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert list(find_images(tmp_path, False)) == ["a"]
    assert [record.getMessage() for record in caplog.records] == [
        "skipped 3 files with other suffixes (2 .heic, 1 .txt) and 2 folders with images (more, x.png)"
    ]


def test_a_folder_without_pictures_says_what_it_holds(tmp_path):
    with pytest.raises(
        ValueError, match=r"--images=.*: expected a folder with images \(PNG, JPEG, WebP.*\); found none"
    ):
        find_images(tmp_path, False)
    draw(tmp_path / "day" / "a.png")
    (tmp_path / "a.heic").write_bytes(b"")
    found = r"found 1 files with other suffixes \(1 .heic\) and 1 folders with images \(day\)"
    with pytest.raises(ValueError, match=found):
        find_images(tmp_path, False)
    with pytest.raises(ValueError, match=r"--images=.*gone: not found; expected a folder of images, or one image"):
        find_images(tmp_path / "gone", False)


def test_one_picture_is_enough(tmp_path):
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    assert find_images(tmp_path / "a.png", False) == {"a": tmp_path / "a.png"}
    (tmp_path / "c.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"1 of 1 images cannot be read; nothing was predicted.\n  .*c.txt: cannot be"):
        find_images(tmp_path / "c.txt", True)


def test_all_unreadable_pictures_are_named_or_skipped(tmp_path, caplog):
    draw(tmp_path / "a.png")
    for name in ("b.png", "c.jpg"):
        (tmp_path / name).write_bytes((tmp_path / "a.png").read_bytes()[:45])
    named = (
        r"  .*b.png: cannot be read as a picture: truncated.*",
        r"  .*c.jpg: cannot be read as a picture: truncated.*",
    )
    with pytest.raises(ValueError, match=r"2 of 3 images cannot.*--unreadable=skip.*\n" + "\n".join(named)):
        find_images(tmp_path, False)
    assert list(find_images(tmp_path, True)) == ["a"]
    [record] = caplog.records
    assert re.fullmatch("skipping 2 of 3 images, which cannot be read:\n" + "\n".join(named), record.getMessage())


def test_named_pipes_are_named_as_unreadable(tmp_path):
    # Named after a fault: predict waited for ever for a writer of the pipe.
    draw(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"1 of 2 images cannot.*\n  .*pipe.png: a pipe, a socket or a device"):
        find_images(tmp_path, False)
    assert list(find_images(tmp_path, True)) == ["a"]
    with pytest.raises(ValueError, match=r"1 of 1 images cannot.*\n  .*pipe: a pipe, a socket or a device"):
        find_images(tmp_path / "pipe", True)


def test_undecodable_file_names_are_predicted_and_printable(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    draw(tmp_path / f"{name}.png")
    (tmp_path / f"{name}2.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=re.escape(r"caf\xe92.png: cannot be read")) as error:
        find_images(tmp_path, False)
    str(error.value).encode("utf-8")
    assert list(find_images(tmp_path, True)) == [name]
