"""The layout "auto": what the raw folder, or else the prepared sets, say."""

import re
import runpy
import shutil
from pathlib import Path

import pytest
from helpers.decathlon_release import TFDSCopy, write_folders, write_official

from mtan_jax.data.decathlon import Decathlon, DecathlonSet
from mtan_jax.data.errors import RawDataError

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "decathlon.py"
COUNTS = {"train": {"zebra": 2, "ant": 1}, "val": {"zebra": 1}}


def make(tmp_path, set_name="svhn", raw="raw", **options):
    folders = {"data_dir": str(tmp_path / "prepared"), "raw_dir": None if raw is None else str(tmp_path / raw)}
    return DecathlonSet(set_name=set_name, **folders | options)


def layout_of(builder):
    return builder.data_path.parent.name.removeprefix(f"{builder.set_name}-")


@pytest.fixture
def release(tmp_path):
    write_official(tmp_path / "raw", "svhn", 10)
    return tmp_path / "raw"


@pytest.fixture
def copy(tmp_path):
    TFDSCopy("svhn", 10, data_dir=str(tmp_path / "prepared"), file_format="array_record").download_and_prepare()
    return tmp_path / "prepared" / "visual_domain_decathlon"


@pytest.mark.parametrize("devkit", [False, True])
def test_the_release_is_recognised(tmp_path, devkit):
    write_official(tmp_path / "raw", "svhn", 10, devkit=devkit)
    data = make(tmp_path)
    assert layout_of(data) == "official"
    data.prepare()
    assert data.category_ids == tuple(range(900, 890, -1))


def test_folders_are_recognised_whatever_the_name_of_the_set(tmp_path):
    for name in ("svhn", "animals"):
        write_folders(tmp_path / "raw", name, COUNTS)
        assert layout_of(make(tmp_path, name)) == "folders"


def test_a_copy_by_tfds_is_recognised_in_either_folder(tmp_path, copy):
    assert layout_of(make(tmp_path, raw=None)) == "tfds"
    shutil.move(copy, tmp_path / "raw" / copy.name)
    assert layout_of(make(tmp_path)) == "tfds"


def test_the_layout_that_is_prepared_is_found_without_raw_data(tmp_path, release, copy):
    make(tmp_path, layout="official").prepare()
    for raw in (None, "nowhere"):  # the copy by TFDS is the second choice
        data = make(tmp_path, raw=raw)
        assert layout_of(data) == "official"
        assert data.is_prepared()


def test_several_layouts_are_told(tmp_path, release):
    folders = str(release / "decathlon-1.0-data")
    make(tmp_path, layout="official").prepare()
    make(tmp_path, layout="folders", raw_dir=folders).prepare()
    message = f"layout: {tmp_path}/prepared holds the set 'svhn' in several layouts: official, folders. Choose"
    with pytest.raises(ValueError, match=re.escape(message)):
        make(tmp_path, raw=None)
    assert layout_of(make(tmp_path)) == "official"
    assert layout_of(make(tmp_path, raw_dir=folders)) == "folders"
    assert layout_of(make(tmp_path, raw=None, layout="folders")) == "folders"
    write_folders(release, "svhn", COUNTS)
    with pytest.raises(ValueError, match=re.escape(f"layout: {release} holds the set 'svhn' in several layouts")):
        make(tmp_path)


def test_a_set_that_is_not_there_is_missed_in_the_layout_of_the_others(tmp_path, release):
    with pytest.raises(RawDataError, match=r"There is no set 'dtd': .*decathlon-1.0-data holds svhn"):
        make(tmp_path, "dtd").prepare()
    write_folders(tmp_path / "own", "animals", COUNTS)
    with pytest.raises(RawDataError, match=r"There is no set 'dtd': .*own holds animals"):
        make(tmp_path, "dtd", raw="own").prepare()


def test_a_set_of_ones_own_that_the_release_lacks_is_not_said_to_be_official(tmp_path, release):
    with pytest.raises(RawDataError, match=r"There is no set 'animals': .*raw holds annotations, decathlon-1.0-data"):
        make(tmp_path, "animals").prepare()


def test_without_any_data_the_ten_are_official(tmp_path):
    sets = Decathlon(data_dir=str(tmp_path), datasets=("dtd", "animals"))
    assert [layout_of(builder) for builder in sets.builders.values()] == ["official", "folders"]


def test_the_configuration_needs_no_layout(tmp_path):
    write_folders(tmp_path / "raw", "animals", COUNTS)
    write_folders(tmp_path / "raw", "plants", COUNTS)
    config = runpy.run_path(str(CONFIG))["get_config"]("sets=animals+plants")
    folders = {"data_dir": str(tmp_path / "prepared"), "raw_dir": str(tmp_path / "raw")}
    data = Decathlon(datasets=config.tasks, **folders, **config.data.options)
    data.prepare()
    assert [layout_of(builder) for builder in data.builders.values()] == ["folders", "folders"]
