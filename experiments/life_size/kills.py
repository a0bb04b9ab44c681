"""Kills a preparation at random moments, repeats it, and compares all files with an uninterrupted run's.

    python experiments/life_size/kills.py --kills=10

Rendered scenes (configs/streets.py, no raw data) in shards of 1 MB, with 1 and with 2 workers. SIGKILL goes to the
whole process group or, in every other trial, to the main process only; its workers must then exit, and must not write
into the files of the next run. run.py runs this as the part `kills`.
"""

import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from typing import Any

import psutil
import records
from inputs import FOLDER, ROOT, parser, part_of, remove

SHARD_BYTES = 1_000_000
IMAGE_SIZE = (64, 128)
EXAMPLES = {"train_examples": 100, "val_examples": 20}
NOT_DATA = (".lock", ".owner")  # suffixes of files that only name the writer
KILLS = 10
GRACE = 10  # seconds within which workers must notice that their parent is gone


def main() -> None:
    """Runs the trials with 1 and with 2 workers."""
    arguments = parser(__doc__)
    arguments.add_argument("--kills", type=int, default=KILLS)
    given = arguments.parse_args()
    for workers in (1, 2):
        sys.stdout.write(
            json.dumps(trials(workers, given.kills, given.scratch.resolve(), examples(given.fraction))) + "\n"
        )


def run(given: Any) -> None:
    """Runs the part `kills` of run.py: adds one record per number of workers."""
    for workers, name in enumerate(names(), start=1):
        if given.again or not records.is_known(name, given.out):
            records.add({"name": name} | trials(workers, KILLS, given.scratch, examples(given.fraction)), given.out)


def names() -> list[str]:
    """Returns the names of the records, with 1 and with 2 workers."""
    return [
        f"kills: streets 64x128, 1 MB shards, {workers}, SIGKILL {KILLS} times" for workers in ("1 worker", "2 workers")
    ]


def examples(fraction: float) -> dict[str, int]:
    """Returns the number of scenes to render, in both splits."""
    return {key: part_of(count, fraction) for key, count in EXAMPLES.items()}


def trials(workers: int, kills: int, scratch: pathlib.Path, scenes: dict[str, int]) -> dict[str, Any]:
    """Kills preparations, each started from scratch; returns how many ended with the files of an uninterrupted one."""
    folder = scratch / "kills"
    remove(folder)
    whole = folder / "undisturbed"
    begin, end = undisturbed(whole, workers, scenes)
    expected = digest(whole)
    rng = random.Random(workers)
    found = []
    for trial in range(kills):
        data_dir = folder / f"trial_{trial}"
        prepare = command(data_dir, workers, scenes)
        group = trial % 2 == 0
        moment, killed = interrupt(prepare, data_dir, rng, begin, end, group=group)
        kept = sum(1 for path in data_dir.rglob("*") if path.is_file())
        again = subprocess.run(prepare, **_options(folder / f"trial_{trial}.log"), check=False)
        survivors = outlived(killed)
        different = sorted(set(digest(data_dir).items()) ^ set(expected.items()))
        found.append(
            {"moment": round(moment, 2), "group": group, "files_left": kept, "exit": again.returncode}
            | {"outlived": survivors, "different": sorted({name for name, _ in different})[:5]}
        )
        remove(data_dir)
    good = [t for t in found if t["exit"] == 0 and not t["different"] and not t["outlived"]]
    return {
        "command": f"python experiments/life_size/kills.py --kills={kills}",
        "success": len(good) == kills,
        "result": f"{len(good)} of {kills} identical to an undisturbed run's {len(expected)} files",
        "undisturbed_seconds": [round(begin, 2), round(end, 2)],
        "examples": sum(scenes.values()),
        "trials": found,
    }


def command(data_dir: pathlib.Path, workers: int, scenes: dict[str, int]) -> list[str]:
    """Returns the command that prepares the dataset."""
    config = str(ROOT / "configs" / "streets.py")
    flags = [
        f"--data_dir={data_dir}",
        f"--workers={workers}",
        f"--options={json.dumps({'image_size': IMAGE_SIZE} | scenes)}",
    ]
    return [sys.executable, str(FOLDER / "prepare.py"), config, *flags]


def undisturbed(data_dir: pathlib.Path, workers: int, scenes: dict[str, int]) -> tuple[float, float]:
    """Prepares without a kill; returns the seconds from the start to the first file and to the end."""
    start = time.perf_counter()
    process = subprocess.Popen(command(data_dir, workers, scenes), **_options(data_dir.with_suffix(".log")))
    begin = None
    while process.poll() is None:
        if begin is None and any(path.is_file() for path in data_dir.rglob("*")):
            begin = time.perf_counter() - start
        time.sleep(0.02)
    if process.returncode or begin is None:
        raise SystemExit(f"the undisturbed preparation failed; see {data_dir.with_suffix('.log')}")
    return begin, time.perf_counter() - start


def interrupt(
    prepare: list[str], data_dir: pathlib.Path, rng: random.Random, begin: float, end: float, *, group: bool
) -> tuple[float, int]:
    """Starts a preparation and kills it at a random moment; returns the moment and the process group.

    If it ends before that moment, an earlier one is drawn.
    """
    while True:
        remove(data_dir)
        moment = rng.uniform(begin, end)
        process = subprocess.Popen(prepare, **_options(data_dir.with_suffix(".killed.log")))
        time.sleep(moment)
        if process.poll() is None:
            (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
            return moment, process.pid
        end = max(begin + 0.1, moment)


def outlived(group: int) -> int:
    """Returns the processes of a killed group that are alive after `GRACE`, and kills them."""
    deadline = time.monotonic() + GRACE
    while (left := _members(group)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        process.kill()
    return len(left)


def _members(group: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def digest(folder: pathlib.Path) -> dict[str, str]:
    """Returns the SHA-256 of every data file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(NOT_DATA))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _options(log: pathlib.Path) -> dict[str, Any]:
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SHARD_BYTES": str(SHARD_BYTES)}
    return {"stdout": log.open("a"), "stderr": subprocess.STDOUT, "env": environment, "start_new_session": True}


if __name__ == "__main__":
    main()
