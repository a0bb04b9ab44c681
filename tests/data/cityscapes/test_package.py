"""Packages of the release as folders, as zips, and as damaged zips."""

import re
import shutil
import zipfile

import pytest
from helpers.cityscapes_release import assert_equal_examples, builder, four_scenes, prepared, write_release

from mtan_jax.data.errors import RawDataError


def test_zips_hold_the_same_as_folders(tmp_path, release):
    folders = prepared(tmp_path, depth="inverse_depth")
    write_release(tmp_path / "zips", four_scenes(), zips=True)
    before = sorted((tmp_path / "zips").iterdir())
    zips = {"raw_dir": str(tmp_path / "zips"), "data_dir": str(tmp_path / "from_zips"), "depth": "inverse_depth"}
    assert_equal_examples(folders, prepared(tmp_path, **zips))
    assert sorted((tmp_path / "zips").iterdir()) == before  # nothing was extracted
    # A prepared dataset records its raw files, and zips are different files than folders.
    with pytest.raises(
        RawDataError, match=r"4 new: leftImg8bit_trainvaltest.zip.*; 16 gone: .*--config.data.prepare=again"
    ):
        builder(tmp_path, depth="inverse_depth", raw_dir=str(tmp_path / "zips")).prepare()
    # A mixture of both.
    shutil.copytree(release / "gtFine", tmp_path / "zips" / "gtFine")
    (tmp_path / "zips" / "gtFine_trainvaltest.zip").unlink()
    assert_equal_examples(folders, prepared(tmp_path, **zips | {"data_dir": str(tmp_path / "mixed")}))


def test_an_empty_folder_does_not_hide_the_zip(tmp_path, release):
    write_release(tmp_path / "zips", four_scenes(), zips=True)
    (tmp_path / "zips" / "gtFine").mkdir()
    zips = {"raw_dir": str(tmp_path / "zips"), "data_dir": str(tmp_path / "from_zips")}
    assert_equal_examples(prepared(tmp_path), prepared(tmp_path, **zips))


def test_truncated_zip_is_named(tmp_path):
    write_release(tmp_path / "raw", four_scenes(), zips=True)
    path = tmp_path / "raw" / "gtFine_trainvaltest.zip"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(RawDataError, match=f"{re.escape(str(path))}: truncated or damaged zip"):
        builder(tmp_path).prepare()


def test_damaged_zip_member_is_named(tmp_path):
    write_release(tmp_path / "raw", four_scenes(), zips=True)
    path = tmp_path / "raw" / "leftImg8bit_trainvaltest.zip"
    name = "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(name).header_offset
    content = bytearray(path.read_bytes())
    content[start + 2000] ^= 255
    path.write_bytes(content)
    with pytest.raises(RawDataError, match=f"{re.escape(f'{path}:{name}')}: damaged .*CRC"):
        builder(tmp_path).prepare()
    assert not builder(tmp_path).is_prepared()
