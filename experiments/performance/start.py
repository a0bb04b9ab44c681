"""Measures the time from the start of the program to its first step, with an empty and a warm compilation cache."""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent.parent
RUNS = 4


def measure_start(data_dir: str | None) -> dict[str, Any]:
    """Starts configs/streets.py several times, each in a new working directory."""
    found: dict[str, list[float]] = {"cold_seconds": [], "warm_seconds": []}
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as folder:
            for name in found:
                found[name].append(round(_first_step(pathlib.Path(folder), name, data_dir), 2))
    ratio = statistics.median(found["warm_seconds"]) / statistics.median(found["cold_seconds"])
    return {**found, "warm_to_cold": round(ratio, 3)}


def _first_step(folder: pathlib.Path, name: str, data_dir: str | None) -> float:
    """Returns the seconds to the first line of metrics.jsonl, which the first step writes."""
    command = [sys.executable, "-m", "mtan_jax.main", "--config=configs/streets.py", f"--workdir={folder / name}"]
    command += [f"--config.compilation_cache={folder / 'cache'}", "--config.log_every=1 steps"]
    command += [f"--config.data.data_dir={data_dir}"] if data_dir else []
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, stderr=subprocess.DEVNULL
    ) as program:
        metrics = folder / name / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            if program.poll() is not None:
                raise SystemExit(f"the program ended with {program.returncode} before its first step")
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        program.kill()
    return seconds
