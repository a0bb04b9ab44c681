"""Measures the dispatch of a step with pmap and with shard_map in a run of two processes.

The state has the arrays of `configs/cityscapes.py` (MTAN on SegNet, Adam) at a small width. The step adds 1 to its step
counter and returns the other arrays as they are, so nearly all of the time is dispatch. Both ways take turns.

    python experiments/performance/dispatch.py
"""

import argparse
import json
import os
import pathlib
import runpy
import socket
import statistics
import subprocess
import sys
import time

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parents[1]
METHODS = ("pmap", "shard_map")
DEVICES, CALLS, TURNS = 2, 20, 7


def measure(coordinator: str, processes: int, index: int) -> dict[str, object]:
    """Runs one of the processes, and returns the medians over turns."""
    import jax
    import numpy as np

    from mtan_jax.experiment import Experiment
    from mtan_jax.runtime import parallel

    parallel.start_processes(coordinator, processes, index)
    config = runpy.run_path(str(ROOT / "configs" / "cityscapes.py"))["get_config"]()
    config.model.width = 0.0625
    abstract = Experiment.from_config(config).abstract_state()
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
    batch = {"image": np.zeros((DEVICES, 1), np.float32)}
    sides = {}
    for method in METHODS:
        parallel.use(method)
        step = parallel.map_train_step(lambda state, batch: state.replace(step=state.step + 1))
        sides[method] = [step, parallel.place_state(zeros), parallel.place_batch(batch)]
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for turn in range(TURNS + 1):
        for method, side in sides.items():
            step, state, placed = side
            parallel.wait_for_all(f"{turn} {method}")
            start = time.perf_counter()
            for _ in range(CALLS):
                state = step(state, placed)
            jax.block_until_ready(state)
            if turn:  # the first turn compiles
                seconds[method].append((time.perf_counter() - start) / CALLS)
            side[1] = state
    parallel.wait_for_all("measured")
    ratios = [a / b for a, b in zip(seconds["shard_map"], seconds["pmap"], strict=True)]
    return {
        "jax": jax.__version__,
        "processes": processes,
        "devices_per_process": DEVICES,
        "arrays": len(jax.tree.leaves(abstract)),
        **{f"{method}_ms": round(1000 * statistics.median(seconds[method]), 2) for method in METHODS},
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def main() -> None:
    """Starts the processes, and writes the numbers of process 0 to `dispatch.json`, by version of JAX."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--process", nargs=3, help=argparse.SUPPRESS)  # coordinator, processes, index
    arguments.add_argument("--out", type=pathlib.Path, default=FOLDER / "dispatch.json")
    given = arguments.parse_args()
    if given.process is not None:
        coordinator, processes, index = given.process
        found = measure(coordinator, int(processes), int(index))
        if index == "0":
            sys.stdout.write(f"{json.dumps(found)}\n")
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--process", address, "2", str(i)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [process.communicate()[0] for process in started]
    found = json.loads(outputs[0].splitlines()[-1])
    results = json.loads(given.out.read_text()) if given.out.exists() else {}
    results[found["jax"]] = found
    given.out.write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write(f"{json.dumps(found, indent=1)}\n")


if __name__ == "__main__":
    main()
