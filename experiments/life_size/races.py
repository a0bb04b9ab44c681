"""Starts two runs at once, on one working directory and on one unprepared dataset, 20 times each.

    python experiments/life_size/races.py --rounds=20

On one working directory one run owns it and succeeds; the other exits with 1 and names host and process id of the
owner. On one dataset (rendered scenes, and 30 frames of NYUv2) both succeed. No line of metrics.jsonl occurs twice.
run.py runs this as the part `races`.
"""

import collections
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import records
from inputs import FOLDER, ROOT, parser, remove
from make_nyuv2 import write_first, write_full

CONFIG = FOLDER / "race_config.py"
FRAMES = {"train": 20, "val": 10}
SECONDS = 600  # seconds after which a run counts as hanging


def main() -> None:
    """Runs all races."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=20)
    given = arguments.parse_args()
    given.scratch, given.shared = given.scratch.resolve(), given.shared.resolve()
    for name, race in RACES.items():
        sys.stdout.write(json.dumps({"name": name} | rounds(race, given.rounds, given)) + "\n")


def run(given: Any) -> None:
    """Runs the part `races` of run.py: adds one record per race."""
    for name, race in RACES.items():
        if given.again or not records.is_known(f"races: {name}", given.out):
            records.add({"name": f"races: {name}"} | rounds(race, 20, given), given.out)


def rounds(race: Callable[[pathlib.Path, Any], list[str]], count: int, given: Any) -> dict[str, Any]:
    """Repeats a race; returns what went wrong in each round."""
    folder = given.scratch / "races"
    wrong = []
    for number in range(count):
        for name in ("one", "other", "prepared"):
            remove(folder / name)
        folder.mkdir(parents=True, exist_ok=True)
        wrong += [f"round {number}: {fault}" for fault in race(folder, given)]
    good = count - len({fault.partition(":")[0] for fault in wrong})
    return {
        "command": f"python experiments/life_size/races.py --rounds={count}",
        "success": not wrong,
        "result": f"{good} of {count} as expected",
        "wrong": wrong,
    }


def on_workdir(folder: pathlib.Path, given: Any) -> list[str]:
    """Races on one working directory, with a prepared dataset."""
    del given
    flags = [f"--config={CONFIG}:streets", "--config.data.data_dir=ready"]
    if not (folder / "ready").exists():
        start(folder, [[*flags, "--workdir=first"]])
    ended = start(folder, [[*flags, "--workdir=one"]] * 2)
    faults = duplicates(folder / "one" / "metrics.jsonl")
    codes = sorted(code for code, _ in ended)
    if codes != [0, 1]:
        return [*faults, f"exit codes {codes}, not [0, 1]; {ended[0][1][-300:]} / {ended[1][1][-300:]}"]
    owner, refused = sorted(ended)
    del owner
    if socket.gethostname() not in refused[1] or not re.search(r"\b\d{2,}\b", refused[1]):
        faults.append(f"the refused run names no host and process id: {refused[1][-300:]}")
    return faults


def on_dataset(folder: pathlib.Path, config: str, *more: str) -> list[str]:
    """Races on one unprepared dataset, with two working directories."""
    flags = [f"--config={config}", "--config.data.data_dir=prepared", *more]
    ended = start(folder, [[*flags, "--workdir=one"], [*flags, "--workdir=other"]])
    faults = [f"exit code {code}: {text[-300:]}" for code, text in ended if code != 0]
    for name in ("one", "other"):
        faults += duplicates(folder / name / "metrics.jsonl")
    return faults


def on_streets(folder: pathlib.Path, given: Any) -> list[str]:
    """Races on rendered scenes."""
    del given
    return on_dataset(folder, f"{CONFIG}:streets")


def on_nyuv2(folder: pathlib.Path, given: Any) -> list[str]:
    """Races on a few frames of NYUv2."""
    sample = given.scratch / "raw" / "nyuv2_sample"
    if not sample.exists():
        write_first(write_full(given.shared, given.scratch / "raw" / "nyuv2_full"), sample, FRAMES)
    return on_dataset(folder, f"{CONFIG}:nyuv2", f"--config.data.raw_dir={sample}")


def start(folder: pathlib.Path, commands: list[list[str]]) -> list[tuple[int, str]]:
    """Starts runs at once; returns the exit code and output of each."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "mtan_jax.main", *flags],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for flags in commands
    ]
    ended = []
    for process in processes:
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output = process.communicate()[0] + f"\nkilled after {SECONDS} s"
        ended.append((process.returncode, output))
    return ended


def duplicates(metrics: pathlib.Path) -> list[str]:
    """Returns errors for lines of the same step and split, and for a file without lines."""
    if not metrics.exists():
        return [f"{metrics.parent.name}: no metrics.jsonl"]
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    counts = collections.Counter((line["step"], line["split"]) for line in lines)
    twice = [f"{metrics.parent.name}: step {key[0]} of {key[1]} {n} times" for key, n in counts.items() if n > 1]
    return twice if lines else [f"{metrics.parent.name}: metrics.jsonl is empty"]


RACES = {
    "two runs on one working directory, 20 times": on_workdir,
    "two runs on one unprepared dataset (streets), 20 times": on_streets,
    "two runs on one unprepared dataset (NYUv2, 30 frames), 20 times": on_nyuv2,
}

if __name__ == "__main__":
    main()
