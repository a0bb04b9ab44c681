"""Compiled programs are kept from run to run, and a cache that is damaged or cannot be written stops no run."""

import errno
import os
import pathlib
import shutil
import stat

import jax
import jax.numpy as jnp
import pytest
from helpers import toy_config
from jax._src import compilation_cache as jax_cache
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from mtan_jax.config import default_config
from mtan_jax.runtime import compilation_cache, home
from mtan_jax.runtime.paths import PathError


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """Programs of any size are kept, and nothing of it stays for the tests that follow."""
    monkeypatch.setattr(jax_cache, "get_file_cache", jax_cache.get_file_cache)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    settings = {"jax_compilation_cache_dir": None, "jax_persistent_cache_min_compile_time_secs": 0}
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    home.temporary.cache_clear()
    home._report.cache_clear()
    reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    home.temporary.cache_clear()
    home._report.cache_clear()
    reset_cache()


def compute(folder):
    """Compiles a small program, as a new process would; returns its result and whether the cache had it."""
    compilation_cache.use(str(folder))
    reset_cache()
    jax.clear_caches()
    hits = []

    def listen(name, **other):
        hits.append(name)

    jax.monitoring.register_event_listener(listen)
    try:
        result = float(jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T + 3)(jnp.ones((3, 3))).sum())
    finally:
        jax.monitoring.unregister_event_listener(listen)
    return result, "/jax/compilation_cache/cache_hits" in hits


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def make_folder(path):
    path.unlink()
    (path / "inner").mkdir(parents=True)


DAMAGE = {
    "truncated": truncate,
    "cut to 2 bytes": lambda path: path.write_bytes(b"ab"),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(os.urandom(1000)),
    "one bit": flip,
    "a folder": make_folder,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_removed_and_compiled_again(damage, tmp_path, caplog):
    folder = tmp_path / "cache"
    result, hit = compute(folder)
    assert not hit
    assert compute(folder) == (result, True)
    entries = list(folder.glob("jit__lambda*"))
    assert len(entries) == 1
    damage(entries[0])
    assert compute(folder)[0] == result
    (record,) = caplog.records
    assert record.getMessage().startswith(f"a compiled program in {folder} is damaged (")
    assert record.getMessage().endswith("): removed; compiling it again")
    caplog.clear()
    assert compute(folder) == (result, True)
    assert caplog.records == []


def test_a_run_with_a_truncated_cache_repairs_it(tmp_path, run_main, capsys, caplog):
    # Named after a fault: JAX warned of such an entry in each run, and never replaced it.
    folder = tmp_path / "cache"
    arguments = [
        f"--config={toy_config.__file__}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.data_dir={tmp_path}",
    ]
    arguments += ["--mode=eval", "--checkpoint=initial", f"--config.compilation_cache={folder}"]
    reports = []
    for _ in range(3):
        reset_cache()
        jax.clear_caches()
        run_main(*arguments)
        reports.append((capsys.readouterr().out, caplog.text.count("is damaged")))
        caplog.clear()
        entries = sorted(folder.glob("*-cache"))
        if len(reports) == 1:
            for entry in entries:
                truncate(entry)
    (first, count), (second, damaged), (third, left) = reports
    assert first == second == third
    assert count == left == 0
    assert 1 < damaged <= len(entries)  # some are of programs that the process has compiled before


def test_a_full_disk_is_reported_once(tmp_path, monkeypatch, caplog):
    def put(self, key, value):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    expected, _ = compute(tmp_path / "other")
    monkeypatch.setattr(jax_cache.LRUCache, "put", put)
    result, _ = compute(tmp_path / "cache")
    assert result == expected
    assert [record.getMessage() for record in caplog.records] == [
        f"compiled programs can no longer be stored in {tmp_path / 'cache'} ([Errno 28] No space left on device)"
    ]


def make_file(path):
    path.write_text("not a folder")


@pytest.mark.parametrize(
    "make", [make_file, lambda path: path.symlink_to("/proc/nowhere/at/all")], ids=["file", "link"]
)
def test_a_cache_that_is_no_folder_is_replaced_by_a_temporary_one(make, tmp_path, caplog):
    make(tmp_path / "cache")
    result, hit = compute(tmp_path / "cache")
    assert not hit
    assert compute(tmp_path / "cache") == (result, True)
    temporary = tmp_path / f"mtan_jax-{os.getuid()}"
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'cache'} is not writable, so compiled programs are stored in {temporary / 'compiled'}; "
        "set --config.compilation_cache=FOLDER to use another folder"
    ]
    assert stat.S_IMODE(temporary.stat().st_mode) == 0o700
    assert not (tmp_path / "cache").is_dir()


def test_a_cache_that_cannot_be_made_is_replaced_by_a_temporary_one(tmp_path, caplog):
    compute("/proc/nowhere/cache")
    assert "/proc/nowhere/cache is not writable, so compiled programs are stored in" in caplog.text


def test_a_temporary_folder_that_others_can_write_is_not_used(tmp_path):
    theirs = tmp_path / f"mtan_jax-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    found = home.temporary()
    assert found != theirs
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    shutil.rmtree(found)
    home.temporary.cache_clear()
    theirs.chmod(0o700)
    assert home.temporary() == theirs


def test_a_bucket_is_refused():
    with pytest.raises(PathError, match=r"config\.compilation_cache=gs://here: expected a local path"):
        compilation_cache.use("gs://here")


def test_the_home_directory_is_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home.compilation_cache("~/.cache/mtan_jax") == pathlib.Path(tmp_path, ".cache/mtan_jax")


def test_the_environment_variable_replaces_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "shared"))
    assert default_config().compilation_cache == home.COMPILATION_CACHE
    _, hit = compute(home.COMPILATION_CACHE)
    assert not hit
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "shared")
    assert list((tmp_path / "shared").glob("*-cache"))
    assert compute(home.COMPILATION_CACHE)[1]


def test_a_folder_that_the_user_chose_wins_over_the_environment_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "shared"))
    compute(tmp_path / "own")
    assert list((tmp_path / "own").glob("*-cache"))
    assert not (tmp_path / "shared").exists()


def test_no_cache_wins_over_the_environment_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "shared"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "shared"))  # as JAX does when it is imported
    assert not compute("")[1]
    assert not compute("")[1]
    assert not (tmp_path / "shared").exists()


def test_an_empty_environment_variable_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home.compilation_cache(home.COMPILATION_CACHE) == tmp_path / ".cache" / "mtan_jax"


def test_a_bucket_in_the_environment_variable_is_refused(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://here")
    with pytest.raises(PathError, match=r"^JAX_COMPILATION_CACHE_DIR=gs://here: expected a local path"):
        compilation_cache.use(home.COMPILATION_CACHE)
