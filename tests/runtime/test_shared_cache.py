"""Several processes share the compiled programs in their working directory."""

import re

import pytest
from helpers import whole_run

from mtan_jax.runtime import compilation_cache, home

HASH = re.compile(r"get_cache_key hash of serialized ([\w ]+): (\w+)")
USE = re.compile(r"ersistent compilation cache (hit|miss) for 'jit_train_step'", re.IGNORECASE)


def key_parts(text):
    """Whether the training step was cached, and the hashes of what its key consists of."""
    found, parts = None, {}
    for line in text.splitlines():
        if part := HASH.search(line):
            parts[part[1]] = part[2]
        elif use := USE.search(line):
            found = use[1].lower(), dict(parts)
    return found


@pytest.mark.slow
def test_processes_share_programs_in_the_working_directory(tmp_path, monkeypatch):
    # Named after a fault: the cache was in each host's home, and JAX writes it from process 0 only.
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JAX_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    run = whole_run.Run("toy_config", tmp_path / "data", tmp_path, duration="2 steps")
    run = run.with_options(compilation_cache=home.COMPILATION_CACHE)
    folder = tmp_path / "run"
    run.finish(run.start(folder, processes=2))
    assert list((folder / compilation_cache.FOLDER).glob("jit_train_step-*"))
    assert not (tmp_path / "home" / ".cache" / "mtan_jax").exists()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / compilation_cache.FOLDER))
    (_, err), (_, other) = run.finish(run.start(tmp_path / "another", processes=2))
    (use, parts), (_, other_parts) = key_parts(err), key_parts(other)
    assert use == "hit"
    # The program is the same on every host. The rest of the key is JAX's: on CPUs, the description of the devices
    # differs among processes, so that process 1 cannot read the entry here.
    assert len(parts) == len(other_parts) == 8
    assert {name for name in parts if parts[name] != other_parts[name]} <= {"accelerator_config"}


@pytest.mark.parametrize(
    ("text", "variable", "processes", "expected"),
    [
        (home.COMPILATION_CACHE, None, 2, "run/compiled"),
        (home.COMPILATION_CACHE, None, 1, "home/.cache/mtan_jax"),
        (home.COMPILATION_CACHE, "variable", 2, "variable"),
        ("field", None, 2, "field"),
        ("field", "variable", 2, "field"),
        ("", None, 2, None),
    ],
)
def test_the_default_of_several_processes_is_in_the_working_directory(
    text, variable, processes, expected, tmp_path, monkeypatch
):
    used = {}
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    if variable:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / variable))
    monkeypatch.setattr(compilation_cache.jax, "process_count", lambda: processes)
    monkeypatch.setattr(compilation_cache.jax.config, "update", used.__setitem__)
    monkeypatch.setattr(compilation_cache.jax_cache, "get_file_cache", compilation_cache.jax_cache.get_file_cache)
    compilation_cache.use(str(tmp_path / text) if text == "field" else text, tmp_path / "run")
    assert used == {"jax_compilation_cache_dir": expected and str(tmp_path / expected)}
