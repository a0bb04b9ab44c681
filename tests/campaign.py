"""Ends runs at random moments, repeats the command, and compares the result bit by bit with an uninterrupted run.

    python tests/campaign.py kill1=100 stop1=20 --scratch=/tmp/campaign --out=experiments/robustness

Trials that are already in the results are not repeated, so that the campaign can be stopped and continued. Several
calls with different kinds and scratch folders can run at once. Each trial adds one line to OUT/KIND.jsonl, and
OUT/table.md is the table of all results. The folder of a trial that fails remains in the scratch folder.
"""

import argparse
import functools
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from helpers import campaign_damage, campaign_disk, campaign_table, campaign_trials
from helpers.whole_run import ROOT

KINDS = {
    "kill1": functools.partial(campaign_trials.kill, processes=1),
    "kill2": functools.partial(campaign_trials.kill, processes=2),
    "stop1": functools.partial(campaign_trials.stop, processes=1),
    "stop2": functools.partial(campaign_trials.stop, processes=2),
    "disk": campaign_disk.full_disk,
    "damage": campaign_damage.damage,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "trials", nargs="+", metavar="KIND=COUNT", help=f"kinds: {', '.join(KINDS)}; or KIND=START:STOP"
    )
    parser.add_argument("--scratch", type=pathlib.Path, default=pathlib.Path("/tmp/campaign"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("experiments/robustness"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job; runs would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    given.out.mkdir(parents=True, exist_ok=True)
    campaign = campaign_trials.Campaign(given.scratch, given.seed)
    failed = 0
    for text in given.trials:
        kind, _, numbers = text.partition("=")
        start, _, stop = numbers.rpartition(":")
        failed += run(campaign, kind, range(int(start or 0), int(stop)), given.out)
    (given.out / "table.md").write_text(campaign_table.table(given.out))
    sys.exit(1 if failed else 0)


def run(campaign, kind, numbers, out):
    """Runs the missing trials of a kind; returns the number that failed."""
    path, failed = out / f"{kind}.jsonl", 0
    done = {json.loads(line)["trial"] for line in path.read_text().splitlines()} if path.exists() else set()
    for number in sorted({*numbers} - done):
        began = time.monotonic()
        record = {"trial": number, "commit": find_commit(), **KINDS[kind](campaign, number)}
        record["trial_seconds"] = round(time.monotonic() - began, 1)
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if record["faults"]:
            failed += 1
            sys.stdout.write(f"{kind} {number} FAILED: {json.dumps(record['faults'])}\n")
        else:
            shutil.rmtree(campaign.scratch / f"{kind}.{number}")
            sys.stdout.write(f"{kind} {number} ok, {record['trial_seconds']} s\n")
        sys.stdout.flush()
    return failed


def find_commit():
    """The commit of the program, with "-dirty" if it has been changed since; None outside of a Git checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None


if __name__ == "__main__":
    main()
