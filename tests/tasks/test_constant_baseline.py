import dataclasses

import numpy as np
import pytest

from mtan_jax.data.builder import DataInfo
from mtan_jax.tasks import build_tasks, constant_baseline, depth

INFO = DataInfo(
    name="toy",
    image_size=(4, 6),
    classes=("ground", "sky", "thing", "car"),
    palette=np.zeros((4, 3), np.uint8),
    inverse_depth=False,
    depth_unit="m",
)
TASKS = build_tasks(["semantic", "depth", "normal"], INFO)


def make_batches(seed, count=3):
    """Batches of 4 with undefined pixels, rows without a label, and a padded row of garbage in the last one."""
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(count):
        semantic = rng.choice([-1, 0, 1, 2, 3], (4, 4, 6), p=[0.1, 0.1, 0.4, 0.3, 0.1]).astype(np.int8)
        distance = rng.gamma(2, 3, (4, 4, 6, 1)).astype(np.float32) + 0.5
        direction = np.array([0, -1, 0.5]) + 0.4 * rng.normal(size=(4, 4, 6, 3))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        for target in (distance, direction):
            target[rng.random((4, 4, 6)) < 0.2] = 0
        targets = {"semantic": semantic, "depth": distance, "normal": direction.astype(np.float32)}
        labelled = {name: rng.random(4) < 0.8 for name in targets}
        batches.append({"targets": targets, "labelled": labelled, "weight": np.ones(4, np.float32)})
    batches[-1]["weight"][3] = 0
    batches[-1]["targets"]["depth"][3] = np.nan
    return batches


def defined(batches, name):
    """The defined pixels of a target, row by row."""
    pixels = []
    for batch in batches:
        for row in range(4):
            if batch["labelled"][name][row] and batch["weight"][row]:
                values = batch["targets"][name][row]
                pixels.append(values[values >= 0] if name == "semantic" else values[values.any(axis=-1)])
    return np.concatenate(pixels)


def test_scores_by_their_definitions():
    batches = make_batches(0)
    scores = constant_baseline.best_constants(TASKS, iter(batches))
    assert list(scores) == [f"{task.name}/{name}" for task in TASKS for name in task.metric().compute()]

    classes = defined(batches, "semantic")
    frequency = np.bincount(classes).max() / len(classes)
    assert scores["semantic/pixel_accuracy"] == pytest.approx(frequency)
    assert scores["semantic/miou"] == pytest.approx(frequency / 4)

    depths = defined(batches, "depth").astype(np.float64)
    error = np.abs(depths - np.median(depths))
    assert scores["depth/abs_error"] == pytest.approx(error.mean(), rel=1e-6)
    assert scores["depth/rel_error"] == pytest.approx((error / depths).mean(), rel=1e-6)

    # No direction of a fine search around is better.
    normals = defined(batches, "normal").astype(np.float64)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    directions = normals.mean(axis=0) + 0.3 * np.random.default_rng(1).normal(size=(5_000, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip(normals @ directions.T, -1, 1))).mean(axis=0)
    assert angles.min() - 0.1 < scores["normal/mean"] < angles.min() + 1e-4


def test_chunks_do_not_show(monkeypatch):
    whole = constant_baseline.best_constants(TASKS, make_batches(0))
    monkeypatch.setattr(constant_baseline, "CHUNK", 32)
    assert constant_baseline.best_constants(TASKS, make_batches(0)) == pytest.approx(whole, rel=1e-6)


def test_too_many_pixels_are_thinned_in_order(monkeypatch):
    monkeypatch.setattr(constant_baseline, "MAX_PIXELS", 100)
    pixels = constant_baseline._Pixels()
    for start in range(0, 1_000, 30):
        pixels.add(np.arange(start, min(start + 30, 1_000)))
    np.testing.assert_array_equal(pixels.values(), np.arange(0, 1_000, 16))


def test_a_task_without_a_defined_pixel_gives_nan():
    batches = make_batches(0)
    for batch in batches:
        batch["labelled"]["normal"][:] = False
    scores = constant_baseline.best_constants(TASKS, batches)
    assert {name for name, value in scores.items() if np.isnan(value)} == {
        f"normal/{name}" for name in ("mean", "median", "within_11.25", "within_22.5", "within_30")
    }


def test_a_task_without_a_constant_is_left_out():
    tasks = (dataclasses.replace(depth(), constant=None), TASKS[0])
    assert set(constant_baseline.best_constants(tasks, make_batches(0))) == {"semantic/miou", "semantic/pixel_accuracy"}
