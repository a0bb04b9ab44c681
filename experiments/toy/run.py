"""Runs every weighting method on the two-task problem of CAGrad and Nash-MTL.

    python experiments/toy/run.py

writes results.json, cagrad.png and nash.png beside this file and prints the tables of README.md.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np
from claims import REACHED
from descent import NAMES, trajectories
from jaxtyping import Float
from landscape import PROBLEMS, Front, Problem, pareto_front
from report import figures, tables

from mtan_jax.runtime import paths

FRONT_POINTS = 101  # points of the drawn front
KEPT = 0.02  # a sample is kept if it is this far from the last one kept, in units of the front's extent,
MOST_KEPT = 80  # of which at most this many are kept, evenly spaced
_UNSCALED = dataclasses.replace(PROBLEMS["nash"], scale=(1.0, 1.0))
# Further runs that the claims need: name -> (problem, method, arguments of `trajectories`).
VARIANTS: dict[str, tuple[Problem, str, dict[str, Any]]] = {
    "cagrad c=0": (PROBLEMS["cagrad"], "cagrad", {"options": {"c": 0.0}}),
    "cagrad c=10": (PROBLEMS["cagrad"], "cagrad", {"options": {"c": 10.0}}),
    "equal, start of the text": (dataclasses.replace(PROBLEMS["cagrad"], starts=((-8.5, 5.0),)), "equal", {}),
    "mgda float32": (PROBLEMS["cagrad"], "mgda", {"x64": False}),
    "nash_mtl float32": (PROBLEMS["cagrad"], "nash_mtl", {"x64": False}),
    "pcgrad float32": (PROBLEMS["cagrad"], "pcgrad", {"x64": False}),
    "equal unscaled": (_UNSCALED, "equal", {}),
    "mgda unscaled": (_UNSCALED, "mgda", {}),
    "nash_mtl unscaled": (_UNSCALED, "nash_mtl", {}),
}


def main() -> None:
    """Runs the experiment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=paths.expanded, default=pathlib.Path(__file__).parent, help="folder of the results"
    )
    arguments = parser.parse_args()
    start = time.perf_counter()
    results: dict[str, Any] = {"jax": jax.__version__, "python": sys.version.split()[0], "problems": {}, "variants": {}}
    for key, problem in PROBLEMS.items():
        front = pareto_front(problem)
        methods = {}
        for name in NAMES:
            before = time.perf_counter()
            methods[name] = summary(problem, front, trajectories(name, problem))
            seconds = time.perf_counter() - before
            say(f"{key}, {name}: {seconds:.0f} s, ends at {[run['point'] for run in methods[name]]}")
        line = np.linspace(0, len(front.shares) - 1, FRONT_POINTS).round().astype(int)
        results["problems"][key] = {"front": rounded(np.c_[front.points, front.losses][line]), "methods": methods}
    for key, (problem, name, options) in VARIANTS.items():
        found = summary(problem, pareto_front(problem), trajectories(name, problem, **options))
        results["variants"][key] = [{k: v for k, v in run.items() if k != "trajectory"} for run in found]
        say(f"{key}: ends at {[run['point'] for run in found]}")
    results["minutes"] = round((time.perf_counter() - start) / 60, 1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.json").write_text(one_run_a_line(results))
    for name, figure in figures(results).items():
        figure.savefig(arguments.out / f"{name}.png")
    say(tables(results))


def summary(problem: Problem, front: Front, points: Float[np.ndarray, "starts samples 2"]) -> list[dict[str, Any]]:
    """Returns one record per start: end point, distance from the front, arrival and trajectory.

    `share` is the share of the nearest point of the front (see `landscape.Front`). `arrival` is the same where the
    trajectory first came within `claims.REACHED` of the front, and `arrival_step` the step; both are None if it never
    did.
    """
    with jax.enable_x64(True):
        losses = np.asarray(jax.vmap(jax.vmap(problem.losses))(points.astype(np.float64)))
    records = []
    every = problem.steps // (points.shape[1] - 1)
    for way, values in zip(points, losses, strict=True):
        distances, shares = front.nearest(values)
        reached = np.flatnonzero(distances < REACHED)
        first = reached[0] if len(reached) else None
        records.append(
            {
                "point": rounded(way[-1]),
                "losses": rounded(values[-1]),
                "distance": round(float(distances[-1]), 4),
                "share": round(float(shares[-1]), 3),
                "arrival_step": None if first is None else int(first) * every,
                "arrival": None if first is None else round(float(shares[first]), 3),
                "trajectory": rounded(thinned(np.c_[way, values], np.ptp(front.losses, axis=0)), 2),
            }
        )
    return records


def thinned(way: Float[np.ndarray, "samples 4"], extent: Float[np.ndarray, "2"]) -> Float[np.ndarray, "kept 4"]:
    """Keeps samples that moved from the last one kept, in the plane (in units of 10) or in a loss."""
    kept = [way[0]]
    for row in way[1:]:
        moved = np.abs(row - kept[-1]) / np.array([10, 10, *extent])
        if moved.max() > KEPT:
            kept.append(row)
    return np.stack([*kept[:: math.ceil(len(kept) / MOST_KEPT)], way[-1]])


def rounded(array: np.ndarray, digits: int = 4) -> Any:
    """Rounds an array to a list of short numbers."""
    return np.round(np.asarray(array, np.float64), digits).tolist()


def one_run_a_line(results: dict[str, Any]) -> str:
    """Returns JSON with one line per start of each method."""
    runs: list[str] = []

    def marked(value: Any) -> Any:
        if isinstance(value, dict) and "point" not in value:
            return {key: marked(inner) for key, inner in value.items()}
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return [marked(inner) for inner in value]
        if isinstance(value, dict | list):
            runs.append(json.dumps(value))
            return f"run {len(runs) - 1}"
        return value

    text = json.dumps(marked(results), indent=1)
    for i, run in enumerate(runs):
        text = text.replace(f'"run {i}"', run)
    return text + "\n"


def say(text: str) -> None:
    """Prints a line and flushes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
