"""One checkpoint on disk: any path that the system allows either works or is refused."""

import os
import pathlib

import numpy as np
import pytest

from mtan_jax.runtime import orbax_compat

ARRAYS = {"step": np.array(3, np.int32), "params": {"kernel": np.arange(3000, dtype=np.float32)}}


def write(path, arrays=ARRAYS):
    orbax_compat.write(path, arrays, {"crc32": orbax_compat.checksum(arrays)})


NAMES = [
    *("run[1]", "[!a]", "[a-z]", "a[", "]a", "a*b", "**", "a?b", "?"),
    *("50%", "a%20b", "%zz", "a#b", "{a,b}", "@{x}", "a b", " a ", "a.", "~", "~root", "a~", "$HOME", "!a", "-a"),
    *("gs:x", "gs", "s3:", "C:", "a:b", "a|b", "a;b", "a&b", "a=b", "<a>", "'", '"', "\x01", "new\nline", "tab\t"),
    *("ünïcode", "e\u0301", "😀", "12", "state", "ocdbt.process_0", "7.orbax-checkpoint-tmp", "a" * 255),
]


@pytest.mark.parametrize("name", NAMES)
def test_folders_with_special_characters(name, tmp_path):
    path = tmp_path / name / "checkpoints" / "3"
    assert orbax_compat.unfit(path) is None
    path.parent.mkdir(parents=True)
    write(path)
    arrays, stored = orbax_compat.read(path, ARRAYS)
    np.testing.assert_array_equal(arrays["params"]["kernel"], ARRAYS["params"]["kernel"])
    assert stored["crc32"] == orbax_compat.checksum(arrays)
    assert [item.name for item in tmp_path.iterdir()] == [name]  # nothing went elsewhere


def test_a_star_in_the_path_does_not_collect_other_runs(tmp_path):
    """What another run has written so far, in a folder that the pattern matches."""
    other = {"params": {"other": np.ones(5, np.float32)}}
    write(tmp_path / "run1" / "3", other)
    (tmp_path / "run1" / "3").rename(tmp_path / "run1" / "3.orbax-checkpoint-tmp")
    write(tmp_path / "run*" / "3")
    arrays, _ = orbax_compat.read(tmp_path / "run*" / "3", ARRAYS)
    assert orbax_compat.checksum(arrays) == orbax_compat.checksum(ARRAYS)
    index = (tmp_path / "run*" / "3" / "state" / "manifest.ocdbt").read_bytes()
    size = len(index) + sum(path.stat().st_size for path in (tmp_path / "run*" / "3" / "state" / "d").iterdir())
    write(tmp_path / "alone" / "3")
    index = (tmp_path / "alone" / "3" / "state" / "manifest.ocdbt").read_bytes()
    alone = len(index) + sum(path.stat().st_size for path in (tmp_path / "alone" / "3" / "state" / "d").iterdir())
    assert size == pytest.approx(alone, rel=0.1)


def test_a_path_as_long_as_it_may_be(tmp_path):
    missing = orbax_compat.LONGEST_PATH - len(os.fspath(tmp_path)) - 1
    path = tmp_path.joinpath(*["d" * 99] * (missing // 100), "x" * (missing % 100 or 1))
    assert orbax_compat.unfit(path) is None
    path.mkdir(parents=True)
    write(path / "1234567890.saving-tmp")
    arrays, _ = orbax_compat.read(path / "1234567890.saving-tmp", ARRAYS)
    assert orbax_compat.checksum(arrays) == orbax_compat.checksum(ARRAYS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a\\b", "backslash"),
        ("bugs:/a", "bucket"),
        ("/s3/runs", "bucket"),
        (os.fsdecode(b"caf\xe9"), "not UTF-8"),
        ("/".join(["d" * 250] * 16), "bytes long"),
    ],
)
def test_paths_that_cannot_work(name, message):
    assert message in orbax_compat.unfit(pathlib.Path("/runs") / name)
