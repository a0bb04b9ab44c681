"""Trains whole Pareto fronts with `jax.vmap` over preference vectors.

    python experiments/pareto_fronts/run.py

writes results.json and fronts.png beside this file and prints the table of README.md.
"""

import argparse
import json
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np
from draw_fronts import figure, table
from front_problems import PROBLEMS, FrontProblem, distances
from front_training import METHODS, preference_vectors, train

from mtan_jax.runtime import paths

MEMBERS = 10


def main() -> None:
    """Runs the experiment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=paths.expanded, default=pathlib.Path(__file__).parent, help="folder of the results"
    )
    out = parser.parse_args().out
    preferences = preference_vectors(MEMBERS)
    problems = {key: {name: summary(name, PROBLEMS[key], preferences) for name in METHODS} for key in PROBLEMS}
    results: dict[str, Any] = {
        "jax": jax.__version__,
        "python": sys.version.split()[0],
        "preferences": preferences.round(4).tolist(),
        "problems": problems,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    figure(results).savefig(out / "fronts.png")
    sys.stdout.write(table(results) + "\n")


def summary(name: str, problem: FrontProblem, preferences: np.ndarray) -> dict[str, Any]:
    """The losses of all members, and their largest distances from the front and from the preferences."""
    found: dict[str, Any] = {}
    for x64, suffix in ((True, ""), (False, "_float32")):
        start = time.perf_counter()
        with jax.enable_x64(x64):
            losses = train(name, problem, preferences.astype(np.float64 if x64 else np.float32)).astype(np.float64)
        scaled = preferences * losses
        found[f"seconds{suffix}"] = round(time.perf_counter() - start, 1)
        found[f"losses{suffix}"] = losses.round(5).tolist()
        found[f"distance{suffix}"] = float(f"{distances(problem, losses).max():.3g}")
        found[f"ratio{suffix}"] = float(f"{(scaled.max(1) / scaled.min(1)).max() - 1:.3g}")
    return found


if __name__ == "__main__":
    main()
