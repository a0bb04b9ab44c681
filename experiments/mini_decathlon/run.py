"""Trains one network on the six sets of `mini_decathlon` in eight ways, over several seeds.

    python experiments/mini_decathlon/run.py

trains, for each seed, a network on the largest set, then every method of `METHODS`, and writes results.json beside this
file after each run. Runs that are in it are skipped. report.py writes README.md's table and the figure.
"""

import argparse
import json
import pathlib
import runpy
import sys
import tempfile
import time
from typing import Any

import jax

from mtan_jax.commands.summary import count, count_stored
from mtan_jax.experiment import Experiment
from mtan_jax.runtime import paths
from mtan_jax.training import loop, workdir

FOLDER = pathlib.Path(__file__).parent
CONFIG = FOLDER.parent.parent / "configs" / "mini_decathlon.py"
BASE = "base"  # the network that the others adapt, trained on the set objects only
SET = "objects"

# Method -> architecture, and whether it is initialized from `BASE`. If not, it trains for twice as many steps, as many
# as the base and an adaptation together.
METHODS: dict[str, tuple[str, bool]] = {
    "scratch": ("single", False),
    "feature extraction": ("feature_extraction", True),
    "finetuning": ("single", True),
    "series adapters": ("series_adapters", True),
    "parallel adapters": ("parallel_adapters", True),
    "deep adaptation": ("deep_adaptation", True),
    "Piggyback": ("piggyback", True),
    "MTAN": ("mtan", True),
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
            needed = (
                [BASE] if any(METHODS[name][1] for name in missing) or not is_known(BASE, seed, arguments.out) else []
            )
            for name in needed + missing:
                run(name, seed, runs / str(seed), arguments)


def is_known(name: str, seed: int, folder: pathlib.Path) -> bool:
    """Returns whether a run is in results.json."""
    return any((record["method"], record["seed"]) == (name, seed) for record in read(folder))


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the records of results.json; an empty list without the file."""
    path = folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else []


def run(name: str, seed: int, folder: pathlib.Path, arguments: argparse.Namespace) -> None:
    """Executes one run and adds its record to results.json, unless it is there (a base that is run again)."""
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
    record["accuracy"] = {task: round(metrics[f"{task}/accuracy"], 4) for task in experiment.task_names}
    arguments.out.mkdir(parents=True, exist_ok=True)
    records, path = read(arguments.out), arguments.out / "results.json"
    path.write_text("[\n" + ",\n".join(f" {json.dumps(r)}" for r in [*records, record]) + "\n]\n")
    sys.stdout.write(f"{json.dumps(record)}\n")
    sys.stdout.flush()


def make(name: str, seed: int, folder: pathlib.Path, data_dir: str | None) -> Experiment:
    """Makes the run of a method."""
    arch, adapts = METHODS.get(name, ("split", False))
    config = runpy.run_path(str(CONFIG))["get_config"](f"arch={arch}")
    config.seed = seed
    config.data.data_dir = data_dir
    if name == BASE:
        config.tasks = (SET,)
    if adapts:
        config.model.init_from = str(folder / BASE)
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
