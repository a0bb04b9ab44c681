"""All processes of a run must see the same working directory."""

import re
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


def start_with_data(run, folder, *flags):
    """Two processes that share the working directory, but not the data folder."""
    data = [f"--config.data.data_dir={folder / name}" for name in ("a", "b")]
    return run.start(folder / "run", data, *flags, processes=2, devices=2)


@pytest.mark.slow
def test_each_host_prepares_its_own_data_if_they_share_no_folder(tmp_path):
    run = whole_run.Run("toy_config", tmp_path, tmp_path, duration="2 steps")
    not_seen = f"process 1 on host {socket.gethostname()} does not see process 0's data folder {tmp_path / 'a'}"
    (_, err), (_, other) = run.finish(start_with_data(run, tmp_path))
    assert err.count("not see") == 1
    assert f"{not_seen}; each host prepares its own copy\n" in err
    assert other == ""
    stamps = [path.stat().st_mtime_ns for path in tmp_path.glob("[ab]/toy_builder/toy/*/preparation.json")]
    assert len(stamps) == 2
    # The second start finds both copies, and nothing waits or is prepared.
    (_, err), _ = run.finish(start_with_data(run, tmp_path))
    assert "not see" not in err
    run.finish(start_with_data(run, tmp_path, "--config.data.prepare=again"))
    again = [path.stat().st_mtime_ns for path in tmp_path.glob("[ab]/toy_builder/toy/*/preparation.json")]
    assert all(a > b for a, b in zip(sorted(again), sorted(stamps), strict=True))


@pytest.mark.slow
def test_a_host_without_raw_data_is_named(tmp_path):
    run = whole_run.Run("toy_raw_config", tmp_path, tmp_path)
    raw = [f"--config.data.raw_dir={tmp_path / name}" for name in ("raw", "none")]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "file").write_text("raw")
    errors = run.fail(start_with_data(run, tmp_path, raw), 180)
    host = socket.gethostname()
    own = rf"error: host {host}: toy: no file in {tmp_path / 'none'}\n  process 1 on host {host} does not see "
    assert re.search(own, errors[1]), errors
    assert f"error: process 1 on host {host} has failed while preparing the data: host {host}: toy: no" in errors[0]
    assert all("Traceback" not in error for error in errors)
