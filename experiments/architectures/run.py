"""Trains the runs of a grid that have no stored results, and stores theirs.

    python experiments/architectures/run.py streets
    python experiments/architectures/run.py rooms --raw_dir=FOLDER_OF_NYUV2

Results are the files config.json, data.json and metrics.jsonl of each run, in results/GRID/RUN; report.py makes the
tables of them. Several calls of this program may run at once, also on several machines that share the folder --runs.
"""

import argparse
import json
import logging
import pathlib
import shutil

from grid import get_runs

from mtan_jax.runtime import paths
from mtan_jax.sweep import run_sweep

FOLDER = pathlib.Path(__file__).parent
STORED = ("config.json", "data.json", "metrics.jsonl")
FOLDERS = ("data.data_dir", "data.raw_dir", "compilation_cache")  # fields that depend on the machine only
RUNS_AT_ONCE = 6  # results are stored after each group of this many runs


def main() -> None:
    """Trains and stores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", choices=("streets", "rooms", "streets_weightings", "streets_fixed"))
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--runs", type=paths.expanded, default=pathlib.Path("runs/architectures"))
    parser.add_argument("--raw_dir", help="folder of the raw NYUv2 release, for rooms")
    parser.add_argument("--data_dir", help="folder of prepared datasets")
    parser.add_argument("--seeds", type=int, nargs="+", help="train these seeds only")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = {"raw_dir": arguments.raw_dir, "data_dir": arguments.data_dir}
    flags = [f"--config.data.{name}={value}" for name, value in given.items() if value is not None]
    results, runs = FOLDER / "results" / arguments.grid, arguments.runs / arguments.grid
    wanted = [
        run for run in get_runs(arguments.grid) if not arguments.seeds or run.overrides["seed"] in arguments.seeds
    ]
    missing = [run for run in wanted if not (results / str(run.name)).is_dir()]
    for start in range(0, len(missing), RUNS_AT_ONCE):
        group = missing[start : start + RUNS_AT_ONCE]
        for entry in run_sweep(group, runs, jobs=arguments.jobs, flags=flags):
            if entry.state == "complete":
                store(entry.command.workdir, results / entry.command.name)


def store(workdir: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies what the tables need, completely or not at all."""
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    for name in STORED:
        shutil.copy(workdir / name, partial / name)
    path = partial / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict.fromkeys(FOLDERS), indent=2) + "\n")
    partial.replace(folder)


if __name__ == "__main__":
    main()
