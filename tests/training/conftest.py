"""A toy run, and a working directory in which it was not interrupted; a file may have another `run`."""

import pytest
from helpers import whole_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    return whole_run.Run("toy_config", folder / "data", folder)


@pytest.fixture(scope="module")
def experiment(run):
    return run.experiment()


@pytest.fixture(scope="module")
def straight(experiment, tmp_path_factory):
    """A working directory of the uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight")
    whole_run.train_here(experiment, folder)
    return folder
