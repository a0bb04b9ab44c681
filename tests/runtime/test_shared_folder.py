"""All processes of a run must see the same working directory."""

import socket

import pytest
from helpers import whole_run

from mtan_jax.runtime import parallel, shared_folder


def test_one_process_shares_with_nobody(tmp_path):
    shared_folder.check_shared(tmp_path / "run", "--workdir")
    assert not (tmp_path / "run").exists()
    assert parallel.gather_texts("a") == ["a"]


@pytest.mark.slow
def test_working_directories_that_are_not_shared(tmp_path):
    # Named after a fault: the first run ended without a word, and the second called intact checkpoints damaged.
    run = whole_run.Run("toy_config", tmp_path / "data", tmp_path / "output")
    folders = [tmp_path / "a", tmp_path / "b"]
    errors = run.fail(run.start(folders, processes=2), 180)
    assert (
        f"error: --workdir={folders[0]} is not shared: process 1 on host {socket.gethostname()} did not see"
        in errors[0]
    )
    assert all("Traceback" not in error for error in errors)
    assert not list(folders[0].glob("*.jsonl"))
    assert not (folders[0] / shared_folder.TOKEN_FILE).exists()
