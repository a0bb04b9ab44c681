import pytest
from helpers.decathlon_release import COUNTS, write_folders, write_official


@pytest.fixture
def animals(tmp_path):
    write_folders(tmp_path / "raw", "animals", COUNTS)
    return tmp_path / "raw" / "animals"


@pytest.fixture
def digits(tmp_path):
    write_official(tmp_path / "raw", "svhn", 10)
    return tmp_path / "raw"
