"""A stand-in for a training run: python stand_in_run.py WORKDIR SECONDS OUTCOME. Writes what a run writes."""

import json
import os
import pathlib
import signal
import sys
import time

STEPS = 4


def main():
    folder, seconds, outcome = pathlib.Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    path = folder / "metrics.jsonl"
    done = sum(1 for _ in path.open()) if path.exists() else 0
    for step in range(done + 1, STEPS + 1):
        time.sleep(seconds / STEPS)
        if outcome == "fail" and step == 2:
            sys.exit("a line before\nerror: it fails by design")
        if outcome == "kill" and step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        row = {"step": step, "epoch": step / 2, "split": "val", "depth/loss": 1 / step, "depth/abs_error": 2 / step}
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    with path.open("a") as file:
        file.write(json.dumps({"step": STEPS, "epoch": STEPS / 2, "split": "val_constant"}) + "\n")
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures" / "curves.png").write_bytes(b"")


if __name__ == "__main__":
    main()
