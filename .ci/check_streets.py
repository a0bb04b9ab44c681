"""Checks that a run of configs/streets.py has learned: its last scores on "val" beside those of the best constants.

    python .ci/check_streets.py runs/streets/metrics.jsonl

Exits with 1 where a score misses its goal.
"""
# ruff: noqa: T201

import pathlib
import sys

from mtan_jax.reporting.metrics_file import read_metrics

# Results differ from seed to seed and with the version of JAX. Two runs reached a mean IoU of 0.41 and 0.47, 0.45 and
# 0.49 of the best constant's depth error, and 0.52 and 0.49 of its angle between normals.
LEAST_MIOU = 0.35
REDUCED = ("depth/abs_error", "normal/mean")
LARGEST_SHARE = 0.6  # of the best constant's error


def main(path: pathlib.Path) -> None:
    """Prints each score, its goal and the score of the best constant."""
    last = {line["split"]: line for line in read_metrics(path)}
    if missing := {"val", "val_constant"} - last.keys():
        sys.exit(f"error: {path} has no line of split {', '.join(sorted(missing))}")
    scores, constants = last["val"], last["val_constant"]
    goals = [("semantic/miou", "at least", LEAST_MIOU)]
    goals += [(name, "at most", LARGEST_SHARE * constants[name]) for name in REDUCED]
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
