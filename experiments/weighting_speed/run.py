"""Times steps of weighting methods beside TorchJD and LibMTL, in turns.

    python experiments/weighting_speed/run.py --python-jax=PYTHON --python-torch=PYTHON --torchjd=DIR --libmtl=DIR

writes results.json beside this file, and the tables of README.md.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import report
from problem import METHODS

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parents[1]
NETWORKS, TASKS = ("mlp", "cnn"), (3, 10)
FEWEST_TURNS = 3
FEWEST, MOST = 1, 60  # steps that are timed together
OURS = ("together", "one_by_one", "gram")
TORCHJD = ("autojac", "autojac one by one", "autojac one by one compiled", "autogram")
LIBMTL = ("backward", "backward compiled")
NO_WEIGHTING = ("nash_mtl",)  # TorchJD has only an aggregator of this method, which autogram cannot use
# What does not run, to record the error: a compiled network with batched backward passes, and with autogram.
TRIED = (("TorchJD", "mgda", "autojac compiled"), ("TorchJD", "mgda", "autogram compiled"))
Key = tuple[str, str, str]  # library, method, variant


class Worker:
    """A process that makes and times steps on command."""

    def __init__(self, command: list[str]):
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
        )

    def ask(self, *order: str) -> dict[str, Any]:
        """Sends a command; returns the answer.

        Raises:
            SystemExit: the process has ended.
        """
        assert self._process.stdin is not None  # for the type checker
        assert self._process.stdout is not None
        print(*order, sep="\t", file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended during {' '.join(order)}; its message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def keys_of(method: str) -> tuple[list[Key], list[Key]]:
    """What is timed of one method: ours, and theirs."""
    if method == "equal":
        theirs = [("TorchJD", method, variant) for variant in ("scalarizer", "scalarizer compiled")]
        return [("mtan_jax", method, "one pass")], theirs + [("LibMTL", method, variant) for variant in LIBMTL]
    torchjd = [variant for variant in TORCHJD if variant != "autogram" or method not in NO_WEIGHTING]
    theirs = [("TorchJD", method, variant) for variant in torchjd]
    return [("mtan_jax", method, variant) for variant in OURS], theirs + [("LibMTL", method, v) for v in LIBMTL]


def make_all(worker: Worker, keys: list[Key]) -> dict[Key, dict[str, Any]]:
    """Makes the steps, one after another."""
    return {key: worker.ask("make", *key) for key in keys}


def run_case(network: str, tasks: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Times all methods on one network with one number of tasks."""
    ours, theirs = ([key for method in arguments.methods for key in keys_of(method)[side]] for side in (0, 1))
    with tempfile.TemporaryDirectory() as folder:
        same = [f"--network={network}", f"--tasks={tasks}", f"--folder={folder}"]
        checkouts = [f"--torchjd={arguments.torchjd}", f"--libmtl={arguments.libmtl}", f"--threads={arguments.threads}"]
        jax_worker = Worker([arguments.python_jax, str(FOLDER / "ours.py"), *same])
        torch_worker = Worker([arguments.python_torch, str(FOLDER / "theirs.py"), *same, *checkouts])
        with concurrent.futures.ThreadPoolExecutor() as pool:  # compilation is not timed, so both sides may overlap
            jobs = [pool.submit(make_all, jax_worker, ours), pool.submit(make_all, torch_worker, theirs)]
            made = {**jobs[0].result(), **jobs[1].result()}
        workers = {key: jax_worker if key[0] == "mtan_jax" else torch_worker for key in made}
        differences = compare(made, arguments.methods)
        tried = [{"step": " ".join(key), **torch_worker.ask("make", *key)} for key in TRIED]
        seconds = take_turns(workers, {key: "error" not in answer for key, answer in made.items()}, arguments)
        versions = {"mtan_jax": jax_worker.ask("versions"), "PyTorch": torch_worker.ask("versions")}
        jax_worker.close()
        torch_worker.close()
    records = []
    for key, answer in made.items():
        record = {"network": network, "tasks": tasks, **dict(zip(("library", "method", "variant"), key, strict=True))}
        if "error" in answer:
            record["error"] = answer["error"]
        else:
            record |= {"make_s": answer["make_s"], "differs_by": differences.get(key), "ms": seconds[key]}
        records.append(record)
    return {"versions": versions, "records": records, "tried": [one for one in tried if "error" in one]}


def compare(made: Mapping[Key, Mapping[str, Any]], methods: list[str]) -> dict[Key, dict[str, float]]:
    """The distance of each first update from the first of ours, relative to its norm."""
    found = {}
    for method in methods:
        ours, theirs = keys_of(method)
        expected = np.load(made[ours[0]]["update"])
        for key in ours[1:] + theirs:
            if "error" not in made[key]:
                update = np.load(made[key]["update"])
                found[key] = {
                    part: float(f"{np.linalg.norm(update[part] - expected[part]) / np.linalg.norm(expected[part]):.1e}")
                    for part in ("shared", "heads")
                }
    return found


def take_turns(
    workers: Mapping[Key, Worker], works: Mapping[Key, bool], arguments: argparse.Namespace
) -> dict[Key, list[float]]:
    """Times each step in every turn; returns milliseconds per turn."""
    steps: dict[Key, int] = {}
    found: dict[Key, list[float]] = {}
    start = time.perf_counter()
    for turn in range(-1, arguments.turns):
        if turn >= FEWEST_TURNS and time.perf_counter() - start > arguments.case_seconds:
            break
        for method in arguments.methods:
            keys = [key for side in keys_of(method) for key in side if works[key]]
            for key in keys if turn % 2 else keys[::-1]:
                answer = workers[key].ask("time", *key, str(steps.get(key, FEWEST)))
                if "error" in answer:
                    raise SystemExit(f"{' '.join(key)}: {answer['error']}")
                if turn < 0:
                    steps[key] = int(np.clip(arguments.seconds / answer["s"], FEWEST, MOST))
                else:
                    found.setdefault(key, []).append(round(1e3 * answer["s"], 3))
    return found


def hardware() -> dict[str, Any]:
    """The processor and the number of CPUs that this process may use."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {"processor": names[0] if names else platform.processor(), "cpus": len(os.sched_getaffinity(0))}


def commit_of(folder: pathlib.Path) -> str:
    """The commit of a checkout, with "-dirty" if files of it have changed."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    """Runs all cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python-jax", required=True, help="Python with mtan_jax")
    parser.add_argument("--python-torch", required=True, help="Python with PyTorch and the solvers of both libraries")
    parser.add_argument("--torchjd", type=pathlib.Path, required=True, help="checkout of TorchJD")
    parser.add_argument("--libmtl", type=pathlib.Path, required=True, help="checkout of LibMTL")
    parser.add_argument("--threads", type=int, default=1, help="CPUs, and threads of PyTorch")
    parser.add_argument("--turns", type=int, default=7, help="most turns per case")
    parser.add_argument("--case-seconds", type=float, default=110, help=f"no turn after {FEWEST_TURNS} starts later")
    parser.add_argument("--seconds", type=float, default=0.1, help="time of the steps that are timed together")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--tasks", nargs="+", type=int, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--out", type=pathlib.Path, default=FOLDER, help="folder of results.json and README.md")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])  # XLA starts one thread per CPU
    start, loads = time.perf_counter(), [os.getloadavg()[0]]
    results: dict[str, Any] = {
        "commit": commit_of(ROOT),
        "torchjd": commit_of(arguments.torchjd),
        "libmtl": commit_of(arguments.libmtl),
        "hardware": hardware(),
        "records": [],
    }
    for network in arguments.networks:
        for tasks in arguments.tasks:
            case = run_case(network, tasks, arguments)
            loads.append(os.getloadavg()[0])
            results |= {"versions": case["versions"], "tried": case["tried"]}
            results["records"] += case["records"]
            sys.stdout.write(f"{network}, {tasks} tasks: {time.perf_counter() - start:.0f} s, load {loads[-1]:.1f}\n")
            sys.stdout.flush()
    results |= {
        "load_average": [round(load, 1) for load in loads],
        "minutes": round((time.perf_counter() - start) / 60, 1),
    }
    (arguments.out / "results.json").write_text(report.one_record_a_line(results))
    report.write(arguments.out)


if __name__ == "__main__":
    main()
