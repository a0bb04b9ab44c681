import pytest
from helpers.cityscapes_release import four_scenes, write_release


@pytest.fixture
def release(tmp_path):
    write_release(tmp_path / "raw", four_scenes())
    return tmp_path / "raw"
