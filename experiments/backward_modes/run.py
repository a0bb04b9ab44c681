"""Measures temporary memory and step time of the three backward modes of gradient methods.

    python experiments/backward_modes/run.py

Networks: MTAN on a narrow SegNet with 3 and 10 tasks, and a network of twelve dense layers of width 512 that splits
into 40 heads. The method is UPGrad, which needs the Gram matrix only. XLA states the memory of the compiled step. Times
are medians over turns, in which the modes follow each other. Writes `results.json`.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtan_jax import tasks
from mtan_jax.models import Numerics
from mtan_jax.models.backbones.segnet import segnet
from mtan_jax.models.mtan import MTAN
from mtan_jax.weighting import task_gradients, upgrad

FOLDER = pathlib.Path(__file__).parent
MODES = ("together", "one_by_one", "gram")
WIDTH, SIZE, ROWS = 0.125, 32, 2  # of SegNet, images and batches
LAYERS, FEATURES, EXAMPLES = 12, 512, 64  # of the dense network, and its batch
CASES = {"mtan, 3 tasks": 3, "mtan, 10 tasks": 10, "split, 40 tasks": 40}


def mtan(names: tuple[str, ...]) -> tuple[Any, Any]:
    """Parameters and statistics of BatchNorm, and the losses as a function of them."""
    heads = tuple(dataclasses.replace(tasks.depth(), name=name) for name in names)
    model = MTAN(segnet(WIDTH, Numerics()), heads)
    image = np.random.default_rng(0).uniform(size=(ROWS, SIZE, SIZE, 3)).astype(np.float32)
    variables = jax.jit(functools.partial(model.init, train=True))(jax.random.key(0), image)

    def losses_of(params: Any, statistics: Any) -> tuple[dict[str, Any], Any]:
        predictions, updates = model.apply(
            {"params": params, "batch_stats": statistics}, image, train=True, mutable=["batch_stats"]
        )
        goals = enumerate(names)
        return {name: jnp.abs(predictions[name] - i).mean() for i, name in goals}, updates["batch_stats"]

    return (variables["params"], variables["batch_stats"]), losses_of


def split(names: tuple[str, ...]) -> tuple[Any, Any]:
    """The same for dense layers and one head per task."""
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=(rows, columns)) / rows**0.5, jnp.float32)

    params = {f"layer_{i}": matrix(FEATURES, FEATURES) for i in range(LAYERS)}
    params |= {"heads": {name: matrix(FEATURES, 1) for name in names}}
    x = rng.normal(size=(EXAMPLES, FEATURES)).astype(np.float32)

    def losses_of(params: Any, statistics: Any) -> tuple[dict[str, Any], Any]:
        features = x
        for i in range(LAYERS):
            features = jnp.tanh(features @ params[f"layer_{i}"])
        goals = enumerate(names)
        return {name: ((features @ params["heads"][name] - i) ** 2).mean() for i, name in goals}, statistics

    return (params, {}), losses_of


def make_step(case: str, mode: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The step of a case, and arguments for it: parameters, statistics of BatchNorm, state of the optimizer."""
    names = tuple(f"task_{i}" for i in range(CASES[case]))
    (params, statistics), losses_of = (mtan if case.startswith("mtan") else split)(names)
    tx = optax.chain(upgrad(names, backward=mode), optax.sgd(0.01))

    def step(params: Any, statistics: Any, state: Any) -> tuple[Any, Any, Any]:
        gradients, statistics = task_gradients(lambda params: losses_of(params, statistics), params, has_aux=True)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), statistics, state

    return step, (params, statistics, tx.init(params))


def measure(case: str, turns: int, calls: int) -> dict[str, Any]:
    """The record of a case."""
    compiled, arguments, record = {}, {}, {}
    for mode in MODES:
        step, arguments[mode] = make_step(case, mode)
        start = time.perf_counter()
        compiled[mode] = jax.jit(step).lower(*arguments[mode]).compile()
        memory, cost = compiled[mode].memory_analysis(), compiled[mode].cost_analysis()
        record[mode] = {
            "temporary_mib": round(memory.temp_size_in_bytes / 2**20, 1),
            "gflop": round(cost["flops"] / 1e9, 2),
            "compile_s": round(time.perf_counter() - start, 1),
        }
    params = jax.tree.leaves(arguments["together"][0])
    updates = {mode: jax.tree.leaves(compiled[mode](*arguments[mode])[0]) for mode in MODES}
    largest = max(np.abs(a - b).max() for a, b in zip(updates["together"], params, strict=True))
    for mode in MODES:
        pairs = zip(updates[mode], updates["together"], strict=True)
        record[mode]["difference"] = float(max(np.abs(a - b).max() for a, b in pairs) / largest)
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(turns):
        for mode in MODES:
            start = time.perf_counter()
            for _ in range(calls):
                jax.block_until_ready(compiled[mode](*arguments[mode]))
            seconds[mode].append((time.perf_counter() - start) / calls)
    for mode in MODES:
        record[mode]["step_ms"] = round(1000 * statistics.median(seconds[mode]), 1)
        ratios = [a / b for a, b in zip(seconds[mode], seconds["together"], strict=True)]
        record[mode]["of_together"] = round(statistics.median(ratios), 3)
        record[mode]["of_together_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    size = sum(leaf.size for leaf in params) * 4 / 2**20
    return {"parameters_mib": round(size, 1), "modes": record}


def main() -> None:
    """Measures all cases."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--turns", type=int, default=5)
    arguments.add_argument("--calls", type=int, default=2, help="steps per turn")
    arguments.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    arguments.add_argument("--out", type=pathlib.Path, default=FOLDER / "results.json")
    given = arguments.parse_args()
    found = {}
    for case in given.cases:
        found[case] = measure(case, given.turns, given.calls)
        sys.stdout.write(f"{case}: {json.dumps(found[case])}\n")
        sys.stdout.flush()
    environment = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "cores": os.cpu_count()}
    environment |= {"machine": platform.machine(), "turns": given.turns, "calls": given.calls}
    given.out.write_text(json.dumps({"environment": environment, "cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
