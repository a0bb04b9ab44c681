"""Preparation of datasets: many shards, several workers, kills, leftovers, and raw data that change."""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers.slow_dataset import SIZES, Slow

from mtan_jax.data.errors import PreparedDataError, RawDataError
from mtan_jax.data.preparation import prepare, shard_workers, shards

TESTS = pathlib.Path(__file__).parents[2]


def write_raw(root):
    for split, size in SIZES.items():
        (root / split).mkdir(parents=True)
        for index in range(size):
            (root / split / f"{index}.txt").write_text(f"{index % 7}\n")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Four examples per shard: 14 shards of train, 5 of val."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 4 * 8 * 12 * (3 + 1 + 4 + 6))


@pytest.fixture
def raw(tmp_path):
    write_raw(tmp_path / "raw")
    return tmp_path / "raw"


@pytest.fixture
def make(tmp_path, raw):
    return functools.partial(Slow, data_dir=str(tmp_path / "prepared"), raw_dir=str(raw))


def digests(folder):
    files = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def unfinished(builder):
    return pathlib.Path(builder.data_dir).with_name("incomplete.1.0.0")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_any_number_of_workers_writes_the_same_files(tmp_path, make, number):
    builder = make()
    builder.prepare(workers=number)
    assert builder.info.splits["train"].num_shards == 14
    assert builder.info.splits["val"].num_shards == 5
    for split, size in SIZES.items():
        source = builder.as_data_source(split)
        assert [example["id"] for example in source] == [f"toy/{split}/{i}".encode() for i in range(size)]
        assert all((example["image"] == i % 7).all() for i, example in enumerate(source))
    alone = make(data_dir=str(tmp_path / "alone"))
    alone.prepare(workers=1)
    assert digests(builder.data_dir) == digests(alone.data_dir)


def test_plain_tfds_reads_what_is_prepared(make):
    make().prepare(workers=1)
    builder = tfds.builder_from_directory(make().data_dir)
    assert len(builder.as_data_source("train")) == SIZES["train"]
    by_name = tfds.data_source("slow/toy:1.0.0", split="val", data_dir=make().data_dir.split("/slow/")[0])
    assert by_name[5]["id"] == b"toy/val/5"
    np.testing.assert_array_equal(by_name[5]["depth"], builder.as_data_source("val")[5]["depth"])


def test_a_split_larger_than_tfds_keeps_in_memory_needs_no_tensorflow(make, monkeypatch):
    monkeypatch.setattr("tensorflow_datasets.core.shuffle.MAX_MEM_BUFFER_SIZE", 1000)  # bytes; the default is 1000 MiB
    make().prepare()
    assert len(make().as_data_source("train")) == SIZES["train"]
    assert "tensorflow" not in sys.modules


def test_memory_does_not_grow_with_the_split(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 2**20)
    code = """if True:
        import pathlib, resource, sys
        import numpy as np
        from helpers.toy_data import ToyBuilder
        from mtan_jax.data.preparation import shards
        from mtan_jax.data.builder import DataInfo
        class Large(ToyBuilder):
            def __init__(self, *, data_dir, count):
                self.count = count
                super().__init__(data_dir=data_dir)
            @property
            def data_info(self):
                return DataInfo("large", (256, 512), ("a", "b"), np.zeros((2, 3), np.uint8), True, "1/m")
            def split_sizes(self):
                return {"train": self.count, "val": 1}
            def example(self, split, index):
                arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in self._arrays().items()}
                return {"id": f"{split}{index}", "labelled": dict.fromkeys(self.targets, True), **arrays}
        shards.SHARD_BYTES = 2**20
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        Large(data_dir=sys.argv[1] + "/a", count=8).prepare(workers=1)
        before = peak()
        Large(data_dir=sys.argv[1] + "/b", count=200).prepare(workers=1)  # 370 MB
        print(peak() - before)
    """
    run = [sys.executable, "-c", code, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    grown = float(subprocess.run(run, check=True, capture_output=True, text=True, env=environment).stdout)
    assert grown < 60  # MiB


STARTED = """if True:
    import logging, signal, sys
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes of a shell ignore it
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from mtan_jax.data.preparation import shards
    from helpers.slow_dataset import Slow
    shards.SHARD_BYTES = 4 * 8 * 12 * 14
    data_dir, raw_dir, workers = sys.argv[1:]
    Slow(data_dir=data_dir, raw_dir=raw_dir, seconds=0.02).prepare(workers=int(workers))
"""


def start(tmp_path, raw, number, data_dir="prepared"):
    paths = [TESTS, TESTS.parent]
    return subprocess.Popen(
        [sys.executable, "-c", STARTED, str(tmp_path / data_dir), str(raw), str(number)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [1, 2])
def test_a_killed_preparation_goes_on_and_ends_with_the_same_files(tmp_path, raw, make, number):
    alone = make(data_dir=str(tmp_path / "alone"), seconds=0.0)
    alone.prepare(workers=1)
    folder = unfinished(make())
    kept = 0
    for wanted in (2, 7):
        process = start(tmp_path, raw, number)
        while kept < wanted and process.poll() is None:
            time.sleep(0.01)
            kept = len(list(folder.glob("slow-*")))
        assert process.poll() is None, process.stderr.read()
        process.kill()
        process.communicate()
    last = start(tmp_path, raw, number)
    messages = last.communicate()[1]
    assert last.returncode == 0, messages
    assert "continuing the preparation" in messages
    done = int(re.search(r"prepared slow/toy: (\d+) examples", messages)[1])
    assert done <= sum(SIZES.values()) - 4 * 6  # at least six shards are not made again
    assert digests(make().data_dir) == digests(alone.data_dir)
    assert not folder.exists()
    assert "\r" not in messages


def test_workers_end_with_a_main_process_that_is_killed(tmp_path, raw, make):
    process = start(tmp_path, raw, 2)
    folder = unfinished(make())
    while len(list(folder.glob("unfinished.*"))) < 2 and process.poll() is None:
        time.sleep(0.01)
    pids = {int(path.name.split(".")[1]) for path in folder.glob("unfinished.*")}
    process.kill()
    process.communicate()
    assert len(pids - {process.pid}) == 2
    deadline = time.monotonic() + 5
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in pids if is_running(pid)]
    assert not list(folder.glob("unfinished.*"))  # they remove their unfinished files


def is_running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c_is_left_to_the_main_process(tmp_path, raw, make):
    process = start(tmp_path, raw, 2)
    while not list(unfinished(make()).glob("slow-*")) and process.poll() is None:
        time.sleep(0.01)
    pids = {int(path.name.split(".")[1]) for path in unfinished(make()).glob("unfinished.*")}
    for pid in pids:
        os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    assert all(is_running(pid) for pid in pids)
    os.kill(process.pid, signal.SIGINT)
    messages = process.communicate(timeout=20)[1]
    assert process.returncode != 0
    assert messages.count("Traceback") == 1  # Python's own for KeyboardInterrupt in the main process


def test_two_processes_that_need_a_dataset_share_one_preparation(tmp_path, raw, make):
    messages = []
    for process in [start(tmp_path, raw, 1) for _ in range(2)]:
        messages.append(process.communicate()[1])
        assert process.returncode == 0, messages
    assert sorted("prepared slow/toy" in text for text in messages) == [False, True]
    waited = next(text for text in messages if "prepared slow/toy" not in text)
    assert "waiting for the preparation of" in waited
    assert len(make().as_data_source("train")) == SIZES["train"]


class Summed(Slow):
    """Toy data whose metadata hold a sum over all examples."""

    name = "slow"

    def summarize(self, split, example):
        return np.array([int(example["image"][0, 0, 0])])

    def metadata(self, summary):
        return {"sum": int(summary[0])}


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("place", ["_write_missing", "_write_info", "shutil.rmtree"])
def test_a_preparation_that_ends_before_its_last_steps_is_completed(tmp_path, raw, monkeypatch, number, place):
    expected = sum(index % 7 for size in SIZES.values() for index in range(size))
    options = {"data_dir": str(tmp_path / "prepared"), "raw_dir": str(raw)}
    with monkeypatch.context() as patch:
        function = functools.reduce(getattr, place.split("."), prepare)

        def interrupted(*arguments, **named):
            function(*arguments, **named)
            raise KeyboardInterrupt

        patch.setattr(prepare.shutil if "." in place else prepare, place.split(".")[-1], interrupted)
        with pytest.raises(KeyboardInterrupt):
            Summed(**options).prepare(workers=number)
    Summed(**options).prepare(workers=number)
    assert dict(Summed(**options).info.metadata.items())["sum"] == expected
    alone = Summed(**options | {"data_dir": str(tmp_path / "alone")})
    alone.prepare(workers=1)
    assert digests(Summed(**options).data_dir) == digests(alone.data_dir)


def test_leftovers_of_tfds_are_removed(make, caplog):
    builder = make()
    leftover = pathlib.Path(builder.data_dir).with_name("incomplete.AB12CD_1.0.0")
    leftover.mkdir(parents=True)
    (leftover / "slow-train.array_record").write_text("")
    with caplog.at_level(logging.INFO):
        builder.prepare(workers=1)
    assert not leftover.exists()
    assert "left behind by an interrupted preparation" in caplog.text


def test_shards_of_other_raw_data_are_not_continued(make, raw, monkeypatch, caplog):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(trouble=fail).prepare(workers=1)
    assert len(list(unfinished(make()).glob("slow-*"))) == 8
    (raw / "train" / "3.txt").write_text("9\n")
    with caplog.at_level(logging.INFO):
        make().prepare(workers=1)
    assert "the raw data, the options or the program have changed" in caplog.text
    assert (make().as_data_source("train")[3]["image"] == 9).all()


def raise_raw_error():
    raise RawDataError("raw/train/30.txt: truncated. Get this file anew.")


def test_all_unreadable_raw_files_are_named_at_once(make, raw):
    for index in (3, 30, 50):
        (raw / "train" / f"{index}.txt").write_text("no number")
    with pytest.raises(RawDataError) as error:
        make(trouble=None, strict=True).prepare(workers=1)
    assert str(error.value).splitlines() == [f"{raw}/train/{index}.txt: no number" for index in (3, 30, 50)]
    assert len(list(unfinished(make()).glob("slow-*"))) == 14 + 5 - 3  # the other shards are kept
    for path in (raw / "train").iterdir():
        path.write_text("no number")
    with pytest.raises(RawDataError, match=r"There may be more.$") as error:
        make(strict=True).prepare(workers=1)
    assert len(str(error.value).splitlines()) == shards.MAX_FAULTS + 1


def raise_other_error():
    raise KeyError("something of the user's own")


def end():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("trouble", "error", "message"),
    [
        (raise_raw_error, RawDataError, r"^raw/train/30.txt: truncated. Get this file anew.$"),
        (raise_other_error, shard_workers.WorkerError, r"Traceback(.|\n)*KeyError: \"something of the user's own\""),
        (
            end,
            shard_workers.WorkerError,
            r"a process that prepared train 30 to 33 ended with signal SIGKILL \(out of memory\?",
        ),
    ],
)
def test_failures_in_a_worker_are_reported(make, trouble, error, message):
    with pytest.raises(error, match=message):
        make(trouble=trouble).prepare(workers=2)
    assert not make().is_prepared()
    make().prepare(workers=1)  # the rest is made once the cause is removed
    assert len(make().as_data_source("train")) == SIZES["train"]


def test_progress_has_rate_and_time_left_and_no_carriage_return(make, monkeypatch, caplog, capfd):
    monkeypatch.setattr(prepare, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO):
        make().prepare(workers=1)
    assert re.search(r"slow/toy: 35/70 examples, [\d.e+]+ examples/s, \d\d:\d\d left", caplog.text)
    assert re.search(
        r"prepared slow/toy: 70 examples in \d+ s \(.* examples/s, 1 process\), [\d.]+ MiB in ", caplog.text
    )
    assert "\r" not in caplog.text + "".join(capfd.readouterr())


def test_a_run_that_waited_notices_that_its_raw_data_are_others(tmp_path, raw, make):
    other = tmp_path / "other"
    write_raw(other)
    (other / "train" / "3.txt").write_text("9\n")
    process = start(tmp_path, raw, 1)
    lock_file = pathlib.Path(make().data_dir).with_name("1.0.0.lock.owner")
    while not lock_file.exists() and process.poll() is None:
        time.sleep(0.01)
    with pytest.raises(RawDataError, match=r"prepared from other files than those in .*other \(.*changed: train"):
        make(raw_dir=str(other)).prepare(workers=1)
    assert process.wait() == 0
    process.stderr.close()


def test_of_two_that_prepare_again_one_does(make, monkeypatch):
    make().prepare(workers=1)
    waiting = make()
    hold, turns = prepare.lock.hold, []

    def wait_for_another(*arguments, **options):
        if not turns:
            turns.append(1)
            make().prepare(workers=1, again=True)
        return hold(*arguments, **options)

    monkeypatch.setattr(prepare.lock, "hold", wait_for_another)
    before = waiting.stamp()
    wrote = []
    write = prepare.write_shards
    monkeypatch.setattr(prepare, "write_shards", lambda *a: (wrote.append(1), write(*a)))
    waiting.prepare(workers=1, again=True)
    assert len(wrote) == 1
    assert waiting.stamp() != before


def test_shards_that_a_power_cut_emptied_are_made_again(make, monkeypatch):
    monkeypatch.setattr(prepare, "_write_info", raise_keyboard_interrupt)
    with pytest.raises(KeyboardInterrupt):
        make().prepare(workers=1)
    monkeypatch.undo()
    monkeypatch.setattr(shards, "SHARD_BYTES", 4 * 8 * 12 * 14)
    first, second, *_ = sorted(unfinished(make()).glob("slow-train*"))
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:100])
    make().prepare(workers=1)
    assert [example["id"] for example in make().as_data_source("train")][:8] == [b"toy/train/%d" % i for i in range(8)]


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    i = len(content) // 2
    return content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :]


@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "checksums.json"])
def test_damaged_description_is_named(name, damage, make):
    # Named after a fault: dataset_info.json that is not JSON ended in a traceback of protobuf, and one with another
    # number of examples in a run on fewer examples.
    make().prepare(workers=1)
    path = pathlib.Path(make().data_dir) / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PreparedDataError, match=r"1\.0\.0 cannot be read: .*(damaged|missing).*Delete this folder"):
        make()
    path.unlink()
    if name == "checksums.json":  # as older versions left it
        assert make().is_prepared()


def raise_keyboard_interrupt(*arguments):
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [1, 2])
def test_a_full_disk_ends_in_one_message(make, number):
    """Simulates a full disk with a limit on the size of files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(OSError, match=r"incomplete.1.0.0: cannot be written \(.*If the disk is full, make room"):
            make().prepare(workers=number)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    make().prepare(workers=1)


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        (errno.ENOSPC, None, r"slow/toy: cannot be written \(No space left on device\). Make room and run the same"),
        (errno.EACCES, "prepared", r"prepared: cannot be written \(Permission denied\). Make it writable, or"),
        (errno.EROFS, "prepared/slow/toy/1.0.0.lock", r"lock: cannot be written \(Read-only file system\). Make it"),
        (errno.EACCES, "raw/train", r"^\[Errno 13\] Permission denied: '.*raw/train'$"),
    ],
)
def test_a_folder_that_cannot_be_written_names_the_option(make, tmp_path, monkeypatch, code, name, message):
    # A past bug: "[Errno 13] Permission denied" without naming the option. Root may write anywhere.
    @contextlib.contextmanager
    def hold(*arguments, **options):
        raise OSError(code, os.strerror(code), *([str(tmp_path / name)] if name else []))
        yield

    monkeypatch.setattr(prepare.lock, "hold", hold)
    with pytest.raises(OSError, match=message) as error:
        make().prepare(workers=1)
    assert ("elsewhere with --config.data.data_dir=FOLDER" in str(error.value)) == (name != "raw/train")


def test_an_empty_split_is_named(make, monkeypatch):
    monkeypatch.setattr(Slow, "split_sizes", lambda self: {"train": 3, "val": 0})
    with pytest.raises(RawDataError, match="slow: the split 'val' has no examples"):
        make().prepare()


def test_prepare_again_replaces_a_dataset(make, raw):
    make().prepare(workers=1)
    (raw / "val" / "2.txt").write_text("9\n")
    builder = make()
    builder.prepare(workers=1, again=True)
    assert (builder.as_data_source("val")[2]["image"] == 9).all()
    assert sorted(path.name for path in pathlib.Path(builder.data_dir).parent.iterdir()) == ["1.0.0", "1.0.0.lock"]
    make().prepare()


def test_a_run_does_not_go_on_with_a_dataset_that_another_replaced(make):
    make().prepare(workers=1)
    running = make()
    running.as_data_source("val")
    make().prepare(workers=1, again=True)
    with pytest.raises(RawDataError, match=r"slow: the dataset in \S+ was replaced or removed while this run used it"):
        running.as_data_source("val")
    make().as_data_source("val")


# Changes of the raw data


def corrected_in_place(raw):
    path = raw / "train" / "3.txt"
    size = path.stat().st_size
    path.write_text("5\n")
    assert path.stat().st_size == size
    return r"1 changed: train/3.txt \(2 bytes from .*, now 2 bytes from .*\)"


def corrected_with_its_old_time(raw):
    path = raw / "train" / "3.txt"
    status = path.stat()
    path.write_text("5\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return "the content of a file changed, but not its size or modification time"


def one_more(raw):
    (raw / "val" / "99.txt").write_text("5\n")
    return "1 new: val/99.txt"


def four_less(raw):
    for index in range(4):
        (raw / "val" / f"{index}.txt").unlink()
    return r"4 gone: val/0.txt, val/1.txt, val/2.txt, \.\.\."


def linked_folder_gets_one_more(raw):
    (raw / "train").rename(raw.parent / "elsewhere")
    (raw / "train").symlink_to(raw.parent / "elsewhere")
    (raw.parent / "elsewhere" / "98.txt").write_text("5\n")
    return "1 new: train/98.txt"


@pytest.mark.parametrize(
    "change",
    [corrected_in_place, corrected_with_its_old_time, one_more, four_less, linked_folder_gets_one_more],
)
def test_labels_corrected_in_place_are_noticed(make, raw, change):
    for path in raw.glob("*/*"):
        os.utime(path, (10**9, 10**9))
    make().prepare(workers=1)
    make().prepare()
    changed = change(raw)
    with pytest.raises(RawDataError, match=rf"other files than those in .*{changed}.*--config.data.prepare=again"):
        make().prepare()
    make(raw_dir=None).prepare()  # uses the prepared dataset


def test_a_dataset_prepared_without_a_list_of_its_raw_files_is_not_trusted(make):
    make().prepare(workers=1)
    for name in ("preparation.json", "raw_files.tsv.gz"):
        pathlib.Path(make().data_dir, name).unlink()
    with pytest.raises(RawDataError, match="by an older version that stored no list of raw files"):
        make().prepare()


def test_a_dangling_link_is_named(make, raw):
    (raw / "train" / "7.txt").unlink()
    (raw / "train" / "7.txt").symlink_to(raw / "nowhere")
    with pytest.raises(RawDataError, match=r"train/7.txt: cannot be read \(No such file or directory\)"):
        make().prepare(workers=1)


@pytest.mark.parametrize("free", [10, 0])
def test_a_full_disk_is_announced(make, monkeypatch, caplog, free):
    usage = prepare.shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda path: usage)
    make().prepare(workers=1)
    found = re.search(r"may need (.*), but its disk has (.*) free. Use --config.data.data_dir", caplog.text)
    assert found.groups() == ("91.88 KiB", f"{free} bytes")  # 70 examples of 8 x 12 pixels of 14 bytes


def test_the_record_tells_what_a_dataset_was_made_from(make):
    make().prepare(workers=1)
    record = json.loads(pathlib.Path(make().data_dir, "preparation.json").read_text())
    assert record.keys() == {"version", "code", "raw", "shards"}
    assert record["shards"][0] == ["train", 0, 3, "slow-train.array_record-00000-of-00014"]


def test_a_worker_does_not_import_jax():
    code = "import sys, mtan_jax.data.preparation.shard_workers; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
