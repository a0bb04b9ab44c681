"""Measures how long the steps of configs/streets.py wait for batches, and how long a save blocks them."""

import pathlib
import runpy
import statistics
import tempfile
import time
from typing import Any

import jax

from mtan_jax.experiment import Experiment
from mtan_jax.runtime import parallel
from mtan_jax.runtime.checkpoint import Checkpoints
from mtan_jax.training import evaluation

ROOT = pathlib.Path(__file__).parent.parent.parent
WARM_UP, STEPS, SAVES = 5, 60, 5


def measure_loop(data_dir: str | None) -> dict[str, Any]:
    """Runs steps as the training loop does, then saves."""
    config = runpy.run_path(str(ROOT / "configs" / "streets.py"))["get_config"]()
    config.data.data_dir = data_dir
    experiment = Experiment.from_config(config)
    experiment.data.prepare()
    state = experiment.init_state()
    stream = experiment.train_batches(0)
    batches = parallel.place_ahead(map(evaluation.without_ids, stream))
    waits, steps = [], []
    for step in range(WARM_UP + STEPS):
        start = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - start
        state = jax.block_until_ready(experiment.train_step(state, batch))
        if step >= WARM_UP:
            waits.append(waited)
            steps.append(time.perf_counter() - start)
    stream.close()
    start = time.perf_counter()
    rows = sum(len(batch["weight"]) for batch, _ in zip(experiment.train_batches(0), range(100), strict=False))
    alone = rows / (time.perf_counter() - start)
    return {
        "steps": STEPS,
        "step_seconds": round(statistics.median(steps), 4),
        "wait_share": round(sum(waits) / sum(steps), 4),
        "examples_per_second_alone": round(alone),
        "examples_per_second_needed": round(config.batch_size / statistics.median(steps), 1),
        **_saves(state),
    }


def _saves(state: Any) -> dict[str, Any]:
    blocked, copied = [], []
    options = {"keep": 2, "best_metric": "loss", "higher_is_better": False}
    with tempfile.TemporaryDirectory() as folder, Checkpoints(pathlib.Path(folder), **options) as checkpoints:
        for step in range(1, SAVES + 1):
            state = jax.block_until_ready(state.replace(step=jax.numpy.full_like(state.step, step)))
            start = time.perf_counter()
            jax.tree.map(lambda leaf: leaf.copy(), jax.device_get(state))
            copied.append(time.perf_counter() - start)
            start = time.perf_counter()
            checkpoints.save(state, None)
            blocked.append(time.perf_counter() - start)
            time.sleep(10)  # as long as steps in between, so that no save waits for the previous one
    return {
        "megabytes": round(sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6, 1),
        "save_blocks_seconds": [round(value, 4) for value in blocked],
        "copy_seconds": [round(value, 4) for value in copied],
    }
