"""Measures examples per second of our input pipeline and PyTorch's DataLoader, both augmenting, at NYUv2's size."""

import pathlib
import runpy
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mtan_jax.experiment import Experiment

ROOT = pathlib.Path(__file__).parent.parent.parent
SIZE, EXAMPLES = (288, 384), {"train": 96, "val": 8}
ROWS, BATCHES, TURNS = 8, 16, 5


def write_examples(folder: pathlib.Path) -> pathlib.Path:
    """Writes random examples in the authors' layout, which both loaders read."""
    rng = np.random.default_rng(0)
    for split, count in EXAMPLES.items():
        for kind in ("image", "label", "depth", "normal"):
            (folder / split / kind).mkdir(parents=True)
        for i in range(count):
            normal = rng.normal(size=(*SIZE, 3)).astype(np.float32)
            arrays = {
                "image": rng.random((*SIZE, 3), np.float32),
                "label": rng.integers(-1, 13, SIZE).astype(np.float32),
                "depth": rng.random((*SIZE, 1), np.float32) + np.float32(0.1),
                "normal": normal / np.linalg.norm(normal, axis=-1, keepdims=True),
            }
            for kind, array in arrays.items():
                np.save(folder / split / kind / f"{i}.npy", array)
    return folder


def measure_pipeline(folder: pathlib.Path, theirs: Callable[..., Any]) -> dict[str, Any]:
    """Measures both sides in turns, without worker processes and with two.

    Args:
        folder: folder for the data.
        theirs: starts the process of torch_loader.py with the given options.
    """
    raw, found = write_examples(folder / "raw"), {}
    for workers in (0, 2):
        batches = _ours(raw, folder / "data", workers)
        other = theirs("torch_loader.py", data=raw, rows=ROWS, workers=workers)
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        for turn in range(-1, TURNS):
            taken = {"ours": _read(batches), "theirs": other.run(str(BATCHES))}
            for name, value in taken.items():
                if turn >= 0:
                    seconds[name].append(value)
        other.close()
        batches.close()
        rates = {name: [round(ROWS * BATCHES / value, 1) for value in values] for name, values in seconds.items()}
        ratios = sorted(a / b for a, b in zip(rates["ours"], rates["theirs"], strict=True))
        found[f"{workers} workers"] = {
            **{f"{name}_examples_per_second": values for name, values in rates.items()},
            "ratio": round(statistics.median(ratios), 2),
            "ratio_range": [round(ratios[0], 2), round(ratios[-1], 2)],
        }
    return {"size": SIZE, "rows": ROWS, **found}


def _ours(raw: pathlib.Path, data: pathlib.Path, workers: int) -> Any:
    config = runpy.run_path(str(ROOT / "configs" / "nyuv2.py"))["get_config"]()
    config.data.raw_dir, config.data.data_dir = str(raw), str(data)
    config.data.options.layout = "authors"
    config.data.augment, config.data.workers, config.batch_size = True, workers, ROWS
    experiment = Experiment.from_config(config)
    experiment.data.prepare()
    return experiment.train_batches(0)


def _read(batches: Iterator[Any]) -> float:
    start = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    return time.perf_counter() - start
