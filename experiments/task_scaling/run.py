"""Measures compile time and step time of MTAN over the number of tasks, batched over tasks or unrolled.

    python experiments/task_scaling/run.py

writes results.json and task_scaling.png beside this file and prints tables for README.md.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np
import optax
from check import FLOAT32_TOLERANCE, check_in_float64, demand, difference
from measure import Program, alternate
from problem import Problem
from report import figure, tables
from variants import VariantMTAN

from mtan_jax.runtime import paths

# How masks, and how the first convolutions of the heads are computed; README.md defines the names. All others are
# compared with the first.
VARIANTS = (
    ("batched", "unrolled"),
    ("unrolled", "unrolled"),
    ("batched", "products"),
    ("unrolled", "products"),
    ("batched", "grouped"),
)
SMALL = {"width": 0.25, "image_size": (64, 128)}
LARGE = {"width": 0.5, "image_size": (128, 128)}


def main() -> None:
    """Runs the experiment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=paths.expanded, default=pathlib.Path(__file__).parent, help="folder of the results"
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 2, 3, 5, 10], help="numbers of tasks")
    parser.add_argument(
        "--large_tasks", type=int, nargs="*", default=[5], help="numbers of tasks at width 0.5, 128x128"
    )
    parser.add_argument("--rounds", type=int, default=12, help="timed steps per variant")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    start = time.perf_counter()
    with jax.enable_x64(True):
        differences = check_in_float64(Problem(3, **SMALL, dtype=np.float64), VARIANTS)
    say(f"largest differences in float64, 3 tasks: {differences}")
    records = []
    for size, counts in ((SMALL, arguments.tasks), (LARGE, arguments.large_tasks)):
        for num_tasks in counts:
            records += measure(num_tasks, size, arguments.rounds)
    results = {
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "python": sys.version.split()[0],
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "rows": 2,
        "rounds": arguments.rounds,
        "float64_differences": differences,
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "records": records,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.json").write_text(_one_record_a_line(results))
    figure(records).savefig(arguments.out / "task_scaling.png")
    say(tables(records))
    say(f"{results['minutes']} minutes")


def measure(num_tasks: int, size: dict[str, Any], rounds: int) -> list[dict[str, Any]]:
    """Returns one record per variant and one of Adam alone; exits if variants differ."""
    problem, programs, records, first = Problem(num_tasks, **size), [], [], None
    for masks, heads in VARIANTS:
        model = VariantMTAN(problem.backbone, problem.tasks, masks, heads)
        program = Program(problem.train_step(model), problem.state(), problem.batch)
        state = program.step()
        found = jax.device_get({"losses": state.window.loss_total, "batch_stats": state.batch_stats})
        first = first or found
        for name, expected in first.items():
            off = difference(expected, found[name])
            demand(f"{name} of masks {masks}, heads {heads}, {num_tasks} tasks", off, FLOAT32_TOLERANCE)
        programs.append(program)
        records.append({"masks": masks, "heads": heads})
        say(f"{num_tasks} tasks, width {size['width']}, masks {masks}, heads {heads}: {program.built}")
    programs.append(adam_alone(problem))
    records.append({"masks": None, "heads": None})
    alternate(programs, rounds)
    point = {"tasks": num_tasks, "width": size["width"], "image_size": size["image_size"]}
    for record, program in zip(records, programs, strict=True):
        record |= point | program.built | program.timings()
        say(
            f"  masks {record['masks']}, heads {record['heads']}: {record['step_wall_ms']} ms wall, "
            f"{record['step_cpu_ms']} ms CPU"
        )
    return [point | record for record in records]


def adam_alone(problem: Problem) -> Program:
    """Compiles the optimizer's part of the step: from gradients to parameters and moments."""

    def update(state: tuple[Any, Any], grads: Any) -> tuple[Any, Any]:
        params, opt_state = state
        updates, opt_state = problem.optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = problem.state().params
    program = Program(update, (params, problem.optimizer.init(params)), problem.state().params)
    program.step()
    return program


def say(text: str) -> None:
    """Prints a line and flushes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _one_record_a_line(results: dict[str, Any]) -> str:
    head = {key: value for key, value in results.items() if key != "records"}
    lines = ",\n".join(f"    {json.dumps(record)}" for record in results["records"])
    return json.dumps(head, indent=2)[:-2] + f',\n  "records": [\n{lines}\n  ]\n}}\n'


if __name__ == "__main__":
    main()
