"""Prepares, trains on and predicts real datasets at real size; records time, memory and disk space.

    python experiments/life_size/run.py                            # all parts; hours on 2 cores, 25 GB of disk
    python experiments/life_size/run.py --only nyuv2 kills         # some of them
    python experiments/life_size/run.py --fraction=0.02 --scratch=runs/try --out=runs/try   # minutes, a quick test

writes results.json beside this file after each run, and README.md's table from it. Successful runs in
results.json are skipped, unless --again is given. Logs are in SCRATCH/logs; each line begins with the seconds
since the command began.
"""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import bars
import kills
import races
import records
import report
from commands import PARTS, Run, finished, split_sizes
from inputs import FOLDER, ROOT, parser, remove
from measure import measure

from mtan_jax.runtime import paths

SPECIAL = {"kills": kills.run, "races": races.run, "bars": bars.run}
HERE = {"PYTHONPATH": str(ROOT)}  # for all processes: this checkout, whatever is installed


def main() -> None:
    """Runs the requested parts that have no record yet."""
    arguments = parser(__doc__)
    arguments.add_argument("--only", nargs="+", choices=[*PARTS, *SPECIAL], default=[*PARTS, *SPECIAL], metavar="PART")
    arguments.add_argument("--again", action="store_true", help="repeat runs that are in results.json")
    arguments.add_argument("--out", type=paths.expanded, default=FOLDER, help="folder of results.json and README.md")
    given = arguments.parse_args()
    if given.fraction != 1 and given.out.resolve() == FOLDER:
        arguments.error("--fraction is for a quick test; give another folder for its results with --out")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # ends the running command too
    given.scratch = given.scratch.resolve()
    given.shared = given.shared.resolve()
    for folder in ("raw", "prepared", "runs", "logs"):
        (given.scratch / folder).mkdir(parents=True, exist_ok=True)
    if not (given.scratch / "configs").exists():
        (given.scratch / "configs").symlink_to(ROOT / "configs")  # so that commands run as printed
    for part in given.only:
        if part in SPECIAL:
            SPECIAL[part](given)
            continue
        for run in PARTS[part]:
            if given.fraction != 1 and run.until == "logged":
                continue  # the steps of a full network do not get shorter
            if given.again or not records.is_known(run.name, given.out):
                records.add({"name": run.name} | measured(run, given), given.out)
                report.write(given.out)
    report.write(given.out)


def measured(run: Run, given: Any) -> dict[str, Any]:
    """Makes the inputs, runs the command and returns its record."""
    for maker in run.inputs:
        make(maker, given)
    if run.prepares is not None:
        for folder in given.scratch.glob(run.prepares):
            remove(folder)
    if run.workdir is not None and not any(flag.startswith("--mode=") for flag in run.flags):
        remove(given.scratch / run.workdir)
    result = measure(
        command(run),
        folder=given.scratch,
        log=given.scratch / "logs" / f"{slug(run.name)}.log",
        environment=HERE,
        is_prepared=None if run.prepares is None else lambda: len(prepared(run, given.scratch)) >= run.sets,
        stop=stopper(run, given.scratch),
    )
    record = {"command": printed(run), "fraction": given.fraction} | result
    sizes = split_sizes(prepared(run, given.scratch))
    if run.prepares is not None:
        record |= {"examples": sum(sizes.values()), "disk_mib": sum(map(disk_mib, prepared(run, given.scratch)))}
    else:
        record["examples"] = run.examples or round(
            sum(sizes.get(split, 0) * times for split, times in run.passes.items())
        )
    record["success"] = result["exit"] == 0 or (
        result["interrupted"] and result["exit"] == 1 and ("prepare" in result or run.until == "logged")
    )
    if record["success"]:
        for folder in run.discards:
            remove(given.scratch / folder)
    return record


def make(maker: tuple[str, ...], given: Any) -> None:
    """Runs a script that makes raw data in its own process, so that its memory is not measured."""
    flags = [f"--scratch={given.scratch}", f"--shared={given.shared}", f"--fraction={given.fraction}"]
    script, *kinds = maker
    subprocess.run([sys.executable, FOLDER / script, *flags, *kinds], env=os.environ | HERE, check=True)


def command(run: Run) -> list[str]:
    """Returns the command line of a run."""
    if run.script:
        return [sys.executable, str(FOLDER / run.flags[0]), *run.flags[1:]]
    return [sys.executable, "-m", "mtan_jax.main", *run.flags]


def printed(run: Run) -> str:
    """Returns the command line as a user would type it."""
    return shlex.join(["python", *command(run)[1:]]).replace(f"{ROOT}/", "")


def prepared(run: Run, scratch: pathlib.Path) -> list[pathlib.Path]:
    """Returns the prepared datasets of a run."""
    pattern = run.prepares or run.reads
    return [] if pattern is None else finished(pattern, scratch)


def stopper(run: Run, scratch: pathlib.Path) -> Callable[[], bool] | None:
    """Returns the condition that interrupts a run."""
    if run.until == "prepared":
        return lambda: len(prepared(run, scratch)) >= run.sets
    if run.until == "logged":
        metrics = scratch / (run.workdir or "") / "metrics.jsonl"
        return lambda: metrics.exists() and '"train"' in metrics.read_text()
    return None


def disk_mib(folder: pathlib.Path) -> int:
    """Returns the disk space of a folder, in MiB."""
    return round(sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) / 2**20)


def slug(name: str) -> str:
    """Returns a file name for a run."""
    return "".join(c if c.isalnum() else "_" for c in name)


if __name__ == "__main__":
    main()
