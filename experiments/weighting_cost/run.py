"""Measures step time and memory of every weighting method, ours and LibMTL's, relative to equal weighting.

    python experiments/weighting_cost/run.py --mtan=<checkout of github.com/lorenmt/mtan, commit c36c30b> \
        --libmtl=<checkout of github.com/median-research-group/LibMTL, commit 4336804> --torch=<a Python with PyTorch>

writes results.json beside this file, then README.md's tables and weighting_cost.png from it (report.py), and reports
which methods exceed their bars (check.py). Without --libmtl only ours are measured.
"""

import argparse
import importlib.metadata
import inspect
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import jax
import optax
from check import broken
from libmtl_client import LibMTL
from program import Maker, Program
from report import write

from mtan_jax.runtime import paths
from mtan_jax.weighting import METHODS

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parent.parent

BASE = "base"  # equal weighting, the reference; it is measured once more as a method, to show the noise
# Required options that configs/streets.py does not set.
OPTIONS: dict[str, dict[str, Any]] = {
    "schedule": {
        "weights": {"semantic": 1.0, "depth": optax.linear_schedule(1.0, 0.1, transition_steps=1000), "normal": 1.0}
    },
}
PROGRAMS_AT_ONCE = 6  # more need more memory maps than Linux gives a process, 65,530
ONE_BY_ONE = ("mgda", "moco", "pcgrad")  # by weights only; with a state of all tasks' gradients; by changing gradients


class Runs(Protocol):
    """A program that takes turns with others.

    Attributes:
        built: what was recorded when it was made.
        seen: what is recorded after it has run.
    """

    built: dict[str, Any]
    seen: dict[str, Any]

    def run(self, turn: int) -> dict[str, float]:
        """Runs once; returns its times."""


def main() -> None:
    """Runs the experiment."""
    arguments = parse()
    jax.config.update("jax_enable_compilation_cache", False)
    if jax.device_count() != 1:
        raise SystemExit(f"{jax.device_count()} devices; one is needed")
    start = time.perf_counter()
    maker = Maker(lambda: configuration(arguments))
    with tempfile.TemporaryDirectory() as folder:
        libmtl = LibMTL(arguments, maker, pathlib.Path(folder)) if arguments.libmtl else None
        found = measure(arguments, maker, libmtl)
    results = {
        "commit": commit(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "python": sys.version.split()[0],
        "libmtl": libmtl.ready if libmtl else None,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "width": arguments.width,
        "image_size": list(maker.experiment.data.info.image_size),
        "rows": maker.experiment.config.batch_size,
        "rounds": arguments.rounds,
        "minutes": round((time.perf_counter() - start) / 60, 1),
    } | found
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.json").write_text(one_record_a_line(results))
    write(results, arguments.out)
    for line in broken(results):
        say(line)
    say(f"{results['minutes']} minutes")


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mtan", type=paths.expanded, help="checkout of the authors' code")
    parser.add_argument("--libmtl", type=paths.expanded, help="checkout of LibMTL; without it only ours are measured")
    parser.add_argument(
        "--torch",
        type=os.path.expanduser,
        default=sys.executable,
        help="a Python with the requirements of libmtl_process.py",
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--one_by_one", nargs="*", default=ONE_BY_ONE, help="methods also measured one by one")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps per method, at least 2")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=2, help="number of PyTorch's threads")
    parser.add_argument("--data_dir", help="folder of prepared datasets")
    parser.add_argument("--out", type=paths.expanded, default=FOLDER, help="folder of the results")
    arguments = parser.parse_args()
    if arguments.libmtl and not arguments.mtan:
        parser.error("--libmtl needs --mtan")
    return arguments


def configuration(arguments: argparse.Namespace) -> Any:
    """Returns configs/streets.py with few scenes, which the first run renders."""
    config = runpy.run_path(str(ROOT / "configs" / "streets.py"))["get_config"](f"width={arguments.width}")
    config.data.data_dir = arguments.data_dir
    config.data.options = {"image_size": (64, 128), "train_examples": 16, "val_examples": 6, "seed": 0}
    return config


def programs_of(arguments: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields label, method and options of each step."""
    for method in arguments.methods:
        known = inspect.signature(METHODS[method]).parameters
        yield method, method, {}
        if method in arguments.one_by_one and "backward" in known:
            yield f"{method}, one by one", method, {"backward": "one_by_one"}
        if "wrt" in known:
            yield f"{method}, features", method, {"wrt": "features"}


def measure(arguments: argparse.Namespace, maker: Maker, libmtl: LibMTL | None) -> dict[str, Any]:
    """Compiles and times the methods, some at a time."""
    maker.load(libmtl.weights if libmtl else None)
    parts = {BASE: maker.step("equal", {}), "losses": maker.losses(), "optimizer": maker.optimizer()}
    for label, program in parts.items():
        say(f"{label}: {program.built}")
    difference = libmtl.difference(parts["losses"]) if libmtl else None
    records = take_turns(arguments.rounds, "ours", parts, parts[BASE])
    skipped: dict[str, str] = {}
    steps = list(programs_of(arguments))
    for start in range(0, len(steps), PROGRAMS_AT_ONCE):
        programs = make(maker, steps[start : start + PROGRAMS_AT_ONCE], skipped)
        records += take_turns(arguments.rounds, "ours", programs, parts[BASE])
    if libmtl:
        theirs = libmtl.make(arguments.methods)
        records += take_turns(arguments.rounds, "LibMTL", theirs, theirs[BASE])
    head = {"num_tasks": len(maker.experiment.tasks), "losses_differ_by": difference}
    return head | {"skipped": skipped, "records": records}


def make(maker: Maker, steps: list[tuple[str, str, dict[str, Any]]], skipped: dict[str, str]) -> dict[str, Program]:
    """Compiles steps; records in `skipped` those that the network does not support."""
    programs = {}
    for label, method, options in steps:
        try:
            programs[label] = maker.step(method, OPTIONS.get(method, {}) | options)
        except ValueError as error:
            if options.get("wrt") != "features":
                raise
            skipped[label] = str(error)
            say(f"{label}: left out: {error}")
        else:
            say(f"{label}: {programs[label].built}")
    return programs


def take_turns(rounds: int, library: str, programs: Mapping[str, Runs], base: Runs) -> list[dict[str, Any]]:
    """Runs the programs in turns, `rounds` times after one warm-up; returns one record per program."""
    records = [{"library": library, "name": name} | program.built for name, program in programs.items()]
    for turn in range(-1, rounds):
        times = alternate(programs, base, turn)
        if turn >= 0:
            for record, of_turn in zip(records, times, strict=True):
                for key, value in of_turn.items():
                    record.setdefault(key, []).append(value)
    say(f"{library}: took turns, load {os.getloadavg()[0]:.1f}")
    for record, program in zip(records, programs.values(), strict=True):
        record |= program.seen
    return records


def alternate(programs: Mapping[str, Runs], base: Runs, turn: int) -> list[dict[str, float]]:
    """Runs each once, and `base` before and after each of them.

    Returns:
        Each program's times, and, prefixed with "base_", the means of the two runs of `base` beside it.
    """
    found, before = [], base.run(turn)
    for program in programs.values():
        times = before if program is base else program.run(turn)
        after = base.run(turn)
        found.append(times | {f"base_{key}": round((before[key] + after[key]) / 2, 2) for key in times})
        before = after
    return found


def commit() -> str:
    """Returns the commit of this repository."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def one_record_a_line(results: Mapping[str, Any]) -> str:
    """Formats results.json with one record per line."""
    head = {key: value for key, value in results.items() if key != "records"}
    lines = ",\n".join(f"    {json.dumps(record)}" for record in results["records"])
    return json.dumps(head, indent=2)[:-2] + f',\n  "records": [\n{lines}\n  ]\n}}\n'


def say(text: str) -> None:
    """Prints a line and flushes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
