import functools
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import pytest
from helpers.toy_data import SIZE, TARGETS, ToyBuilder, make_arrays, make_labelled

from mtan_jax.data.batches import pipeline
from mtan_jax.data.batches.augment import augment
from mtan_jax.data.batches.examples import PreparedDataError

AUGMENT = functools.partial(augment, inverse_depth=True)


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    builder = ToyBuilder(data_dir=str(tmp_path_factory.mktemp("data")))
    builder.prepare()
    return builder


def train(builder, count, **changes):
    options = {
        "targets": TARGETS,
        "global_batch_size": 4,
        "seed": 7,
        "start_step": 0,
        "process_index": 0,
        "process_count": 1,
        "augment": AUGMENT,
        "workers": 0,
    }
    batches = pipeline.train_batches(builder.as_data_source("train"), **(options | changes))
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def evaluate(builder, **changes):
    options = {"targets": TARGETS, "global_batch_size": 4, "process_index": 0, "process_count": 1}
    return list(pipeline.eval_batches(builder.as_data_source("val"), **(options | changes)))


def assert_same(batch, other):
    assert jax.tree.structure(batch) == jax.tree.structure(other)
    for ours, theirs in zip(jax.tree.leaves(batch), jax.tree.leaves(other), strict=True):
        assert type(ours) is type(theirs) is np.ndarray
        assert ours.dtype == theirs.dtype or ours.dtype.kind == theirs.dtype.kind == "U"  # the length of strings varies
        np.testing.assert_array_equal(ours, theirs)


def pairs(builder, start_step):
    """Makes batches with a second one, and their two streams."""
    streams = [
        pipeline.train_batches(
            builder.as_data_source("train"),
            targets=TARGETS,
            global_batch_size=4,
            seed=seed,
            start_step=start_step,
            process_index=0,
            process_count=1,
            augment=AUGMENT,
            workers=0,
        )
        for seed in (7, pipeline.second_seed(7))
    ]
    return pipeline.with_second(*streams), streams


def test_second_batches_follow_from_seed_and_step(builder):
    batches, streams = pairs(builder, 0)
    taken = [next(batches) for _ in range(4)]
    later, _ = pairs(builder, 2)
    for batch in taken[2:]:
        assert_same(next(later), batch)
    for batch, first in zip(taken, train(builder, 4), strict=True):
        second = batch.pop("second")
        assert_same(batch, first)
        assert set(second) == set(first) - {"id"}
        assert (second["image"] != first["image"]).any()
    batches.close()
    assert all(next(stream, None) is None for stream in streams)  # closed with it


def test_second_seeds_are_seeds_of_their_own():
    seeds = [0, 1, 2, 2**32 - 1]
    found = list(map(pipeline.second_seed, seeds))
    assert len({*seeds, *found}) == 8
    assert all(0 <= seed < 2**32 for seed in found)


def test_batches_keep_the_contract_and_the_values(builder):
    batches = train(builder, 3, augment=None)
    for batch in batches:
        assert batch["image"].shape == (4, *SIZE, 3)
        assert {name: (array.shape, array.dtype) for name, array in batch["targets"].items()} == {
            "semantic": ((4, *SIZE), np.int32),
            "depth": ((4, *SIZE, 1), np.float32),
            "normal": ((4, *SIZE, 3), np.float32),
        }
        assert batch["image"].dtype == batch["weight"].dtype == np.float32
        np.testing.assert_array_equal(batch["weight"], 1)
        for row, name in enumerate(batch["id"]):
            i = int(name.removeprefix("toy/train/"))
            expected = make_arrays(i)
            np.testing.assert_allclose(batch["image"][row], expected["image"] / 255.0, rtol=1e-7)
            for target in TARGETS:
                np.testing.assert_array_equal(batch["targets"][target][row], expected[target])
            assert {target: bool(batch["labelled"][target][row]) for target in TARGETS} == make_labelled(i)


def test_only_the_targets_asked_for(builder):
    (batch,) = train(builder, 1, targets=("depth",))
    assert list(batch["targets"]) == list(batch["labelled"]) == ["depth"]


def test_epochs_run_on_and_are_shuffled_anew(builder):
    names = np.concatenate([batch["id"] for batch in train(builder, 11)])  # 4 epochs of 11 examples
    epochs = names.reshape(4, 11)
    assert all(len(set(epoch)) == 11 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_one_example(builder, workers):
    singles = train(builder, 4, global_batch_size=1, workers=workers)
    together = train(builder, 1)[0]
    np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in singles]), together["image"])


def test_the_seed_decides(builder):
    first, again, other = (train(builder, 2, seed=seed) for seed in (7, 7, 8))
    for ours, theirs in zip(first, again, strict=True):
        assert_same(ours, theirs)
    assert [list(batch["id"]) for batch in first] != [list(batch["id"]) for batch in other]


def test_an_example_is_augmented_anew_each_epoch(builder):
    rows = {}
    for batch in train(builder, 22):
        for name, image in zip(batch["id"], batch["image"], strict=True):
            rows.setdefault(str(name), set()).add(image.tobytes())
    # 8 epochs: 8 equal draws of the 2 x (1 + 6 + 15) ways to zoom and flip are practically impossible.
    assert all(len(images) > 1 for images in rows.values())


@pytest.mark.parametrize("start_step", [1, 5])
def test_resumed_stream_equals_the_straight_one(builder, start_step):
    straight = train(builder, 9)
    resumed = train(builder, 9 - start_step, start_step=start_step)
    for ours, theirs in zip(resumed, straight[start_step:], strict=True):
        assert_same(ours, theirs)


def test_resumed_stream_of_worker_processes_equals_the_straight_one_of_threads(builder):
    straight = train(builder, 9)
    for ours, theirs in zip(train(builder, 6, start_step=3, workers=2), straight[3:], strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("start_step", [0, 4])
def test_processes_share_out_the_batches_of_one(builder, start_step):
    whole = train(builder, 5, start_step=start_step)
    parts = [train(builder, 5, start_step=start_step, process_index=i, process_count=2) for i in range(2)]
    for step, batch in enumerate(whole):
        for i, part in enumerate(parts):
            assert_same(part[step], jax.tree.map(lambda array, i=i: array[i::2], batch))


def test_evaluation_is_in_order_and_pads_the_last_batch(builder):
    batches = evaluate(builder)
    assert [list(batch["id"]) for batch in batches] == [
        [f"toy/val/{i}" for i in range(4)],
        ["toy/val/4", "toy/val/5", "toy/val/6", ""],
    ]
    np.testing.assert_array_equal(np.concatenate([batch["weight"] for batch in batches]), [1] * 7 + [0])
    padding = jax.tree.map(lambda array: array[3], batches[1])
    assert not any(padding["labelled"].values())
    np.testing.assert_array_equal(padding["image"], 0)
    np.testing.assert_array_equal(padding["targets"]["semantic"], -1)
    np.testing.assert_array_equal(padding["targets"]["depth"], 0)
    np.testing.assert_array_equal(padding["targets"]["normal"], 0)


@pytest.mark.parametrize("process_count", [2, 4])
@pytest.mark.parametrize("batch_size", [4, 8])
def test_evaluation_counts_every_example_once_over_processes(builder, process_count, batch_size):
    parts = [
        evaluate(builder, global_batch_size=batch_size, process_index=i, process_count=process_count)
        for i in range(process_count)
    ]
    assert {len(part) for part in parts} == {-(-7 // batch_size)}
    names = [name for part in parts for batch in part for name in batch["id"][batch["weight"] > 0]]
    assert sorted(names) == [f"toy/val/{i}" for i in range(7)]


@pytest.mark.parametrize(("batch_size", "message"), [(6, "6 is not .* 4 processes; use 4"), (2, "4 or 8"), (0, "0")])
def test_batch_size_must_be_divisible_by_the_processes(builder, batch_size, message):
    with pytest.raises(ValueError, match=message):
        train(builder, 1, global_batch_size=batch_size, process_count=4)
    with pytest.raises(ValueError, match=message):
        evaluate(builder, global_batch_size=batch_size, process_count=4)


@pytest.mark.parametrize("name", ["seed", "start_step", "workers"])
def test_negative_numbers(builder, name):
    with pytest.raises(ValueError, match=f"{name} is -1"):
        train(builder, 1, **{name: -1})


@pytest.mark.slow
def test_error_of_a_worker_process_arrives_whole(tmp_path):
    builder = ToyBuilder(data_dir=str(tmp_path))
    builder.prepare()
    (path,) = pathlib.Path(builder.data_dir).glob("toy*train*record*")
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + b"\x17" * 200 + content[middle + 200 :])
    with pytest.raises(PreparedDataError, match=r"example \d+ is damaged or missing.*Delete this folder"):
        train(builder, 4, workers=1)


PROGRAM = """
    import signal, sys, time
    import numpy as np
    from mtan_jax.data.batches import pipeline

    signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes ignore Ctrl-C by default

    class Source:
        def __len__(self):
            return 5

        def __getitem__(self, i):
            image = np.full((4, 4, 3), i, np.uint8)
            return {"id": str(i), "image": image, "edges": image[..., 0], "labelled": {"edges": True}}

    batches = pipeline.train_batches(Source(), targets=("edges",), global_batch_size=2, seed=0, start_step=0,
                                     process_index=0, process_count=1, augment=None, workers=2)
    print(len([next(batches) for _ in range(4)]), flush=True)  # both workers are running
    while sys.argv[1] != "end":
        next(batches)
        time.sleep(0.01)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "end", [pytest.param("end", marks=pytest.mark.long), "SIGINT", pytest.param("SIGKILL", marks=pytest.mark.long)]
)
def test_no_worker_outlives_the_program(end):
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(PROGRAM), end]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as program:
        assert program.stdout.readline() == "4\n"
        if end == "SIGINT":
            os.killpg(program.pid, signal.SIGINT)  # Ctrl-C reaches the workers too
        elif end == "SIGKILL":
            program.kill()
        started = time.monotonic()
        _, errors = program.communicate(timeout=60)
    assert time.monotonic() - started < 20
    assert program.returncode == {"end": 0, "SIGINT": -signal.SIGINT, "SIGKILL": -signal.SIGKILL}[end]
    # One traceback, of the interrupted program itself; nothing from workers or from grain's clean-up.
    assert errors.count("Traceback") == (end == "SIGINT")
    assert "ignored" not in errors
    while living := processes_of_group(program.pid):
        assert time.monotonic() - started < 20, living
        time.sleep(0.1)


def processes_of_group(group):
    """The given process ids that are still running; zombies are not."""
    living = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_group) == group and state != "Z":
            living.append(stat.parent.name)
    return living
