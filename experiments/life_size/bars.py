"""Compares preparation rates of NYUv2 at 288x384: commit 398bce0, and this one with 1 and 2 workers.

    python experiments/life_size/bars.py --rounds=3

The three take turns. All prepare the same .mat, the first 400 frames of train and 8 of val (the old commit fails on
more). The first two are pinned to one core, the third to two. Times are those of `prepare_data`, without imports. Bars:
this commit takes at most half of the old one's time on one core, and two workers are at least 1.7 times as fast as one.
run.py runs this as the part `bars`.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
from typing import Any

import records
from inputs import FOLDER, ROOT, parser, remove
from make_nyuv2 import FIRST, SPLITS, part_of, write_first, write_full

OLD = "398bce0"
KINDS = {f"{OLD}, one core": ("old", 1), "1 worker, one core": ("new", 1), "2 workers, two cores": ("new", 2)}
MOST_OF_OLD, LEAST_OF_TWO = 0.5, 1.7


def main() -> None:
    """Measures and prints the records."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    given.scratch, given.shared = given.scratch.resolve(), given.shared.resolve()
    for record in measured(given, given.rounds):
        sys.stdout.write(json.dumps(record) + "\n")


def run(given: Any) -> None:
    """Runs the part `bars` of run.py: adds one record per kind."""
    if given.again or not all(records.is_known(name, given.out) for name in names()):
        for record in measured(given, 3):
            records.add(record, given.out)


def measured(given: Any, rounds: int) -> list[dict[str, Any]]:
    """Runs the kinds in turns; returns one record per kind."""
    raw = given.scratch / "raw" / "nyuv2_first"
    counts = {name: min(FIRST[name], part_of(count, given.fraction, 10)) for name, (_, count) in SPLITS.items()}
    if not raw.exists():
        write_first(write_full(given.shared, given.scratch / "raw" / "nyuv2_full"), raw, counts)
    checkouts = {"old": old_checkout(given.scratch / OLD), "new": ROOT}
    seconds: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(rounds):
        for name, (version, workers) in KINDS.items():
            seconds[name].append(prepare(checkouts[version], raw, given.scratch / "bars", workers))
            sys.stderr.write(f"{name}: {seconds[name][-1]:.1f} s\n")
    old, one, two = (statistics.median(times) for times in seconds.values())
    results = {
        f"{OLD}, one core": ("", True),
        "1 worker, one core": (f"{one / old:.2f} of {OLD}'s time (at most {MOST_OF_OLD})", one / old <= MOST_OF_OLD),
        "2 workers, two cores": (f"{one / two:.2f} times one (at least {LEAST_OF_TWO})", one / two >= LEAST_OF_TWO),
    }
    return [
        {"name": title(name)}
        | {"command": f"python experiments/life_size/bars.py --rounds={rounds}", "fraction": given.fraction}
        | {"examples": sum(counts.values()), "seconds": round(statistics.median(times), 1)}
        | {"all_seconds": [round(value, 1) for value in times], "result": results[name][0], "success": results[name][1]}
        for name, times in seconds.items()
    ]


def title(kind: str) -> str:
    """Returns the name of a record."""
    return f"bars: NYUv2, .mat, 288x384, first 400 frames: {kind}"


def names() -> list[str]:
    """Returns the names of the records."""
    return [title(kind) for kind in KINDS]


def old_checkout(folder: pathlib.Path) -> pathlib.Path:
    """Checks out the old commit in a worktree of this repository."""
    if not folder.exists():
        subprocess.run(["git", "worktree", "prune"], cwd=ROOT, check=True)
        subprocess.run(["git", "worktree", "add", "--detach", folder, OLD], cwd=ROOT, check=True)
    return folder


def prepare(checkout: pathlib.Path, raw: pathlib.Path, data_dir: pathlib.Path, workers: int) -> float:
    """Prepares on one core per worker; returns the seconds it took."""
    remove(data_dir)
    cores = sorted(os.sched_getaffinity(0))[:workers]
    if len(cores) < workers:
        raise SystemExit(f"{workers} cores are needed; this process may use {len(cores)}")
    config = str(checkout / "configs" / "nyuv2.py")
    command = [sys.executable, str(FOLDER / "prepare.py"), config, f"--raw_dir={raw}", f"--data_dir={data_dir}"]
    done = subprocess.run(
        [*command, f"--workers={workers}"],
        env=os.environ | {"PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    remove(data_dir)
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


if __name__ == "__main__":
    main()
