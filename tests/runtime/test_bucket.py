"""Objects and local mirrors of buckets, against an emulator that can be told to fail."""

import os
import subprocess
import sys
import threading
import time

import pytest
from gcsfs.retry import HttpError
from helpers import bucket_server

from mtan_jax.runtime import bucket, lease, mirror, paths
from mtan_jax.runtime.lock import LockedError

# gcsfs passes large contents to aiohttp as bytes.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


@pytest.fixture(scope="module")
def shared_server():
    with bucket_server.serving() as server:
        yield server


@pytest.fixture
def server(shared_server, monkeypatch, tmp_path):
    """The emulator, empty and without faults, and a home directory of the test's own."""
    bucket_server.enter_machine(monkeypatch, tmp_path / "home")
    yield shared_server
    shared_server.reset()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(bucket, "PATIENCE", 0.5)


def test_objects_are_written_listed_read_and_deleted(server, tmp_path):
    contents = {"a": b"one", "deep/er/b": b"", "[x] *é?": b"\x00\xff" * 3, "big": os.urandom(6 << 20)}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    bucket.upload({f"bucket/run/{name}": tmp_path / name for name in contents})
    found = bucket.find("bucket/run")
    assert {name: each.size for name, each in found.items()} == {k: len(v) for k, v in contents.items()}
    assert bucket.find("bucket/ru") == {}  # not a folder
    files = {f"bucket/run/{name}": tmp_path / "back" / name for name in contents}
    bucket.download({f"bucket/run/{name}": each for name, each in found.items()}, files)
    assert {name: (tmp_path / "back" / name).read_bytes() for name in contents} == contents
    assert bucket.read("bucket/run/a") == b"one"
    assert bucket.read("bucket/run/nothing") is None
    bucket.copy("bucket/run/a", "bucket/run/c")
    bucket.delete(["bucket/run/a", "bucket/run/nothing"])
    assert sorted(bucket.find("bucket/run")) == sorted({*contents, "c"} - {"a"})


def test_only_one_process_creates_an_object(server):
    assert bucket.create("bucket/lock", b"one")
    assert not bucket.create("bucket/lock", b"two")
    assert bucket.read("bucket/lock") == b"one"


def test_a_missing_bucket_is_named(server):
    with pytest.raises(bucket.BucketError, match=r"gs://nothing/x: there is no bucket 'nothing'"):
        bucket.write("nothing/x", b"")


def test_failures_of_the_service_are_survived(server, caplog):
    server.failures = 0.3
    for i in range(10):
        bucket.write(f"bucket/x{i}", b"content")
    assert len(bucket.find("bucket")) == 10
    assert all(bucket.read(f"bucket/x{i}") == b"content" for i in range(10))


def test_timeouts_of_the_service_are_survived(server, monkeypatch):
    bucket.write("bucket/x", b"content")
    monkeypatch.setattr(bucket, "REQUEST_SECONDS", 0.5)
    bucket._filesystem.cache_clear()
    try:
        server.stalls, server.stall_seconds = 1, 3.0
        assert bucket.read("bucket/x") == b"content"
    finally:
        bucket._filesystem.cache_clear()


class Failing:
    """A file system each of whose reads fails, so many times."""

    def __init__(self, error, times):
        self.error, self.times = error, times

    def cat_file(self, path):
        self.times -= 1
        if self.times >= 0:
            raise self.error
        return b"content"


def http_error(code):
    return HttpError({"code": code, "message": "injected"})


@pytest.mark.parametrize("error", [http_error(503), http_error(429), TimeoutError("injected"), OSError("injected")])
def test_what_may_go_away_is_retried(error, monkeypatch, caplog):
    failing = Failing(error, 1)
    monkeypatch.setattr(bucket, "_filesystem", lambda: failing)
    assert bucket.read("bucket/x") == b"content"
    assert "cannot read gs://bucket/x now" in caplog.text


def test_a_service_that_does_not_answer_is_reported(quick, monkeypatch):
    failing = Failing(http_error(503), 99)
    monkeypatch.setattr(bucket, "_filesystem", lambda: failing)
    with pytest.raises(bucket.BucketError, match=r"cannot read gs://bucket/x: .*injected.*Run the same command again"):
        bucket.read("bucket/x")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (http_error(401), "gcloud auth application-default login"),
        (OSError("Forbidden: b/x"), "roles/storage.objectAdmin"),
        (http_error(400), "injected"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_what_a_retry_does_not_fix_is_reported_at_once(error, remedy, monkeypatch):
    failing = Failing(error, 99)
    monkeypatch.setattr(bucket, "_filesystem", lambda: failing)
    with pytest.raises(bucket.BucketError, match=remedy):
        bucket.read("bucket/x")
    assert failing.times == 98


def test_a_file_appears_only_when_it_is_complete(server, tmp_path, quick):
    bucket.write("bucket/x", b"content")
    found = bucket.find("bucket")
    bucket.write("bucket/x", b"other content")  # meanwhile
    with pytest.raises(bucket.BucketError, match="got 13 of 7 bytes"):
        bucket.download({"bucket/x": found["x"]}, {"bucket/x": tmp_path / "x"})
    bucket.write("bucket/x", b"CONTENT")
    with pytest.raises(bucket.BucketError, match="does not match its MD5 digest"):
        bucket.download({"bucket/x": found["x"]}, {"bucket/x": tmp_path / "x"})
    assert list(tmp_path.iterdir()) == []


# Mirrors.


def test_a_mirror_is_pulled_and_pushed(server):
    folder = mirror.local("gs://bucket/runs/x/", "--workdir")
    assert mirror.remote(folder) == "bucket/runs/x"
    assert mirror.renamed(f"in {folder}/a") == "in gs://bucket/runs/x/a"
    assert mirror.pull(folder) == []
    (folder / "sub").mkdir(parents=True)
    for name in ("a", "sub/b", ".hidden", "c.tmp"):
        (folder / name).write_text(name)
    mirror.push(folder)
    assert server.objects() == ["runs/x/a", "runs/x/sub/b"]
    bucket.write("bucket/runs/x/a", b"new")
    bucket.delete(["bucket/runs/x/sub/b"])
    assert mirror.pull(folder) == ["a"]
    assert (folder / "a").read_text() == "new"
    assert not (folder / "sub/b").exists()
    assert (folder / ".hidden").exists()


def test_only_changes_are_transferred(server):
    folder = mirror.local("gs://bucket/x", "--workdir")
    folder.mkdir(parents=True)
    (folder / "a").write_text("a")
    (folder / "b").write_text("b")
    mirror.push(folder)
    (folder / "b").write_text("changed")
    before = server.requests
    mirror.push(folder)
    assert server.requests - before == 1
    before = server.requests
    mirror.push(folder)
    assert server.requests == before
    assert mirror.pull(folder) == []


def test_a_mirror_that_is_kept_is_downloaded_once(server):
    bucket.write("bucket/data/a", b"a" * 1000)
    folder = mirror.local("gs://bucket/data", "config.data.data_dir", keep=True)
    assert mirror.pull(folder) == ["a"]
    mirror._SAME.clear()  # as in another process
    assert mirror.pull(folder) == []


def test_an_object_that_changes_while_it_is_pulled(server, monkeypatch):
    # As a lease or a metrics file beside a training run: its listed size and digest are outdated at once.
    bucket.write("bucket/x/a", b"old")
    outdated, find = [bucket.find("bucket/x")], bucket.find
    bucket.write("bucket/x/a", b"new content")
    monkeypatch.setattr(bucket, "find", lambda path: outdated.pop() if outdated else find(path))
    folder = mirror.local("gs://bucket/x", "--workdir")
    assert mirror.pull(folder) == ["a"]
    assert (folder / "a").read_bytes() == b"new content"


def test_an_object_cannot_leave_its_folder(server, monkeypatch):
    folder = mirror.local("gs://bucket/x", "--images")
    monkeypatch.setattr(bucket, "find", lambda path: {"../../evil": bucket.Object(0, 0.0, None)})
    with pytest.raises(bucket.BucketError, match=r"x/\.\./\.\./evil leads out of its folder"):
        mirror.pull(folder)


@pytest.mark.parametrize("text", ["gs://", "gs:", "gs://a/../b", "gs://a/./b"])
def test_malformed_paths(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if text == "gs:":
        assert mirror.local(text, "--workdir").name == "gs:"  # an ordinary name
        return
    with pytest.raises(paths.PathError, match=r"^--workdir=gs:"):
        mirror.local(text, "--workdir")


def test_gcsfs_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs.core", None)
    with pytest.raises(paths.PathError, match=r'pip install "mtan_jax\[gcs\]"'):
        mirror.local("gs://a/b", "--workdir")


def test_mirrors_of_killed_processes_are_deleted(server, tmp_path):
    code = "from mtan_jax.runtime import mirror; p = mirror.local('gs://b/x', ''); p.mkdir(parents=True); print(p)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    killed = subprocess.run(
        [sys.executable, "-c", f"{code}; import os; os._exit(1)"], capture_output=True, text=True, check=False
    )
    assert not os.path.exists(ended.stdout.strip())
    left = killed.stdout.strip()
    assert os.path.exists(left)
    process = left.split("/b/x")[0]
    os.utime(process, (time.time() - 100,) * 2)
    ours = mirror.local("gs://b/x", "")
    assert not os.path.exists(process)
    assert ours.parents[1].is_dir()


# Leases.


@pytest.fixture
def short_lease(monkeypatch):
    monkeypatch.setattr(lease, "SECONDS_BETWEEN_BEATS", 0.2)
    monkeypatch.setattr(lease, "SECONDS_TO_EXPIRY", 1.5)


def test_a_lease_excludes_others_and_is_released(server, short_lease):
    with lease.hold("bucket/x", "the folder"):
        with pytest.raises(LockedError, match=rf"^the folder is in use by process {os.getpid()} on host "):
            lease.Lease("bucket/x/.lock").acquire("the folder")
        with lease.hold("bucket/x", "the folder"):
            pass
        assert server.objects() == ["x/.lock"]
    assert server.objects() == []


def test_a_lease_of_a_dead_owner_expires(server, short_lease, caplog):
    assert bucket.create("bucket/x/.lock", b'{"pid": 7, "host": "gone", "command": "train"}')
    with lease.hold("bucket/x", "the folder") as held:
        assert "taken over from process 7 on host gone (train)" in caplog.text
        time.sleep(0.6)
        assert not held.is_lost()


def test_a_lost_lease_is_noticed(server, short_lease):
    with lease.hold("bucket/x", "the folder") as held:
        bucket.write("bucket/x/.lock", b'{"id": "another"}')
        deadline = time.monotonic() + 10
        while not held.is_lost():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(LockedError, match="gs://bucket/x was taken over by another run"):
            lease.check("bucket/x")
    assert bucket.read("bucket/x/.lock") == b'{"id": "another"}'
    assert "lease" not in {thread.name for thread in threading.enumerate()}
