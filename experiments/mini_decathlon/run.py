"""Trains one network on the six sets of `mini_decathlon` in ten ways, over several seeds.

    python experiments/mini_decathlon/run.py

trains, for each seed, a network on the largest set, then every method of `METHODS`, and writes results.json beside this
file after each run. Runs that are in it are skipped, unless another run starts from them. report.py writes README.md's
table and the figure.
"""

import argparse
import itertools
import json
import pathlib
import runpy
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import jax

from mtan_jax.commands.summary import count, count_stored
from mtan_jax.experiment import Experiment
from mtan_jax.runtime import paths
from mtan_jax.training import evaluation, loop, workdir

FOLDER = pathlib.Path(__file__).parent
CONFIG = FOLDER.parent.parent / "configs" / "mini_decathlon.py"
BASE = "base"  # the network that the others adapt, trained on the set objects only
SET = "objects"

# Method -> architecture, and the run that initializes it. Without one, it trains for twice as many steps, as many as
# the base and an adaptation together.
METHODS: dict[str, tuple[str, str | None]] = {
    "scratch": ("single", None),
    "feature extraction": ("feature_extraction", BASE),
    "finetuning": ("single", BASE),
    "series adapters": ("series_adapters", BASE),
    "parallel adapters": ("parallel_adapters", BASE),
    "parallel adapters, continued": ("parallel_adapters", "parallel adapters"),
    "parallel SVD": ("parallel_svd", "parallel adapters"),
    "deep adaptation": ("deep_adaptation", BASE),
    "Piggyback": ("piggyback", BASE),
    "MTAN": ("mtan", BASE),
}


def main() -> None:
    """Runs the methods that have no record yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, starting at 0")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--data_dir", help="folder of prepared datasets")
    parser.add_argument("--runs", type=paths.expanded, help="folder of working directories; default: a temporary one")
    parser.add_argument("--out", type=paths.expanded, default=FOLDER, help="folder of results.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        runs = arguments.runs or pathlib.Path(temporary)
        for seed in range(arguments.seeds):
            missing = [name for name in arguments.methods if not is_known(name, seed, arguments.out)]
            base = [] if is_known(BASE, seed, arguments.out) else [BASE]
            for name in dict.fromkeys([*base, *itertools.chain.from_iterable(map(with_starts, missing))]):
                run(name, seed, runs / str(seed), arguments)


def with_starts(name: str) -> list[str]:
    """Returns a run after the runs that initialize it."""
    _, start = METHODS.get(name, ("split", None))
    return [*(with_starts(start) if start else []), name]


def is_known(name: str, seed: int, folder: pathlib.Path) -> bool:
    """Returns whether a run is in results.json."""
    return any((record["method"], record["seed"]) == (name, seed) for record in read(folder))


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the records of results.json; an empty list without the file."""
    path = folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else []


def run(name: str, seed: int, folder: pathlib.Path, arguments: argparse.Namespace) -> None:
    """Executes one run and adds its record to results.json, unless it is there (a start that is run again)."""
    jax.clear_caches()
    start = time.perf_counter()
    experiment = make(name, seed, folder, arguments.data_dir)
    experiment.data.prepare()
    workdir.claim(folder / name, experiment.config, write=True)
    metrics = loop.train(experiment, folder / name)
    if is_known(name, seed, arguments.out):
        return
    record = {"method": name, "seed": seed, "minutes": round((time.perf_counter() - start) / 60, 2)}
    record |= {"steps": experiment.total_steps, "parameters": parameters(experiment)}
    record["accuracy"] = accuracies(experiment, metrics)
    if name != BASE and METHODS[name][1] in METHODS:  # all heads are trained already
        record["initial"] = accuracies(experiment, evaluation.evaluate(experiment, experiment.init_state()))
    arguments.out.mkdir(parents=True, exist_ok=True)
    records, path = read(arguments.out), arguments.out / "results.json"
    path.write_text("[\n" + ",\n".join(f" {json.dumps(r)}" for r in [*records, record]) + "\n]\n")
    sys.stdout.write(f"{json.dumps(record)}\n")
    sys.stdout.flush()


def accuracies(experiment: Experiment, metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the accuracy of each set."""
    return {task: round(metrics[f"{task}/accuracy"], 4) for task in experiment.task_names}


def make(name: str, seed: int, folder: pathlib.Path, data_dir: str | None) -> Experiment:
    """Makes the run of a method."""
    arch, start = METHODS.get(name, ("split", None))
    config = runpy.run_path(str(CONFIG))["get_config"](f"arch={arch}")
    config.seed = seed
    config.data.data_dir = data_dir
    if name == BASE:
        config.tasks = (SET,)
    if start:
        config.model.init_from = str(folder / start)
    elif name != BASE:
        config.duration = f"{2 * int(config.duration.split()[0])} steps"
    return Experiment.from_config(config)


def parameters(experiment: Experiment) -> dict[str, Any]:
    """Counts parameters: those kept, without heads, and those trained."""
    variables = experiment.abstract_variables
    total, heads = count_stored(variables)
    return {"kept": total - heads, "heads": heads, "trained": count(variables["params"])}


if __name__ == "__main__":
    main()
