"""Checks that a run of configs/streets.py has learned: its last scores on "val" beside those of the best constants.

    python .ci/check_streets.py runs/streets/metrics.jsonl

Exits with 1 where a score is worse than its goal by more than 10 %: training is chaotic, and another processor rounds
otherwise, so a score near its goal may fall on either side of it.
"""
# ruff: noqa: T201

import pathlib
import sys

from mtan_jax.writers import read_metrics

LEAST_MIOU = 0.40
HALVED = ("depth/abs_error", "normal/mean")  # at most half of the best constant's
SLACK = 0.10


def main(path: pathlib.Path) -> None:
    """Prints each score, its goal and the score of the best constant."""
    last = {line["split"]: line for line in read_metrics(path)}
    if missing := {"val", "val_constant"} - last.keys():
        sys.exit(f"error: {path} has no line of split {', '.join(sorted(missing))}")
    scores, constants = last["val"], last["val_constant"]
    goals = [("semantic/miou", "at least", LEAST_MIOU)]
    goals += [(name, "at most", constants[name] / 2) for name in HALVED]
    missed = 0
    for name, bound, goal in goals:
        ratio = scores[name] / goal if bound == "at least" else goal / scores[name]  # 1 or more is good
        missed += not ratio >= 1 - SLACK  # NaN is missed too
        verdict = "reached" if ratio >= 1 else "near" if ratio >= 1 - SLACK else "MISSED"
        print(f"{name}: {scores[name]:.4f}, goal {bound} {goal:.4f} ({verdict}); best constant {constants[name]:.4f}")
    if missed:
        sys.exit(f"error: {missed} of {len(goals)} goals missed at step {scores['step']}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
