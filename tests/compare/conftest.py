"""Runs of three architectures and two seeds or three, and what they logged."""

import numpy as np
import pytest
from helpers import stored_runs

SEEDS = (0, 1, 2)
TASKS = ("semantic", "depth", "normal")


def noisy(values, rng):
    return {name: value * (1 + 0.02 * rng.normal()) for name, value in values.items()}


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """A folder of runs, and the last metrics of each run by (kind, seed); do not change the files."""
    folder, rng = tmp_path_factory.mktemp("stored") / "runs", np.random.default_rng(0)
    metrics = {}
    for seed in SEEDS:
        # The baseline: one network per task.
        metrics["single", seed] = {}
        for task in TASKS:
            values = noisy(stored_runs.of_task(stored_runs.STL, task), rng)
            metrics["single", seed] |= values
            stored_runs.write(
                folder / "single" / f"{task}-{seed}", values, seed=seed, tasks=(task,), model__arch="single"
            )
        for arch in ("mtan", "split"):
            for weighting, values in (("equal", stored_runs.LS), ("nash_mtl", stored_runs.NASH)):
                metrics[f"{arch} {weighting}", seed] = noisy(values, rng)
                logged = {f"weights/{task}": rng.uniform(0.5, 2) for task in TASKS}
                if weighting == "nash_mtl":
                    logged |= {"telemetry/cosine/semantic-depth": 0.2, "telemetry/cosine/semantic-normal": -0.1}
                stored_runs.write(
                    folder / f"{arch}-{weighting}-{seed}",
                    metrics[f"{arch} {weighting}", seed],
                    seed=seed,
                    model__arch=arch,
                    weighting=weighting if weighting == "equal" else "telemetry+nash_mtl",
                    logged=logged,
                )
    return folder, metrics
