"""Writes pareto.npz: weights of EPO and of hypervolume maximization by their authors' codes, in float64.

    python make_pareto.py --epo=<checkout of github.com/dbmptr/EPOSearch, commit 19f14dd> \
        --hypervolume=<checkout of github.com/timodeist/multi_objective_learning, commit 06217d0>

Needs PyTorch, cvxpy and cvxopt (for GLPK); the tests read the stored file only.

For K = 2, 3 and 10 tasks:

- `K/gradients` [20, K, 12], `K/losses` [20, K] and `K/preferences` [20, K]: of 20 steps. The gradients are 5 random
  ones, 5 that conflict, 5 of lengths that differ up to a hundredfold, and 5 with a common direction. In every third
  step the losses are nearly inversely proportional to the preferences, so that EPO descends.
- `K/epo` [20, K]: EPO's solution, which sums to 1.
- `K/population` [20, K, members]: losses of 8 members (5 for 10 tasks).
- `K/hypervolume` [20, K, members]: the weights of each member, with the reference point 2 for all tasks.
"""

import argparse
import importlib
import pathlib
import sys
import types
import warnings

import numpy as np

FOLDER = pathlib.Path(__file__).parent
STEPS = 20
SIZE = 12


def make_gradients(rng, tasks):
    gradients = rng.normal(size=(STEPS, tasks, SIZE))
    gradients[5:10] -= 1.1 * gradients[5:10].mean(1, keepdims=True)
    gradients[10:15] *= 10 ** rng.uniform(-1, 1, (5, tasks, 1))
    gradients[15:] += 2 * rng.normal(size=(5, 1, SIZE))
    return gradients


def make_population(rng, tasks, members):
    """Losses in which some members dominate others; the largest may exceed the reference point."""
    directions = rng.dirichlet(np.ones(tasks), (STEPS, members))
    lengths = rng.uniform(0.8, 2.5, (STEPS, members, 1))
    return np.moveaxis(lengths * np.sqrt(directions), 2, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epo", type=pathlib.Path, required=True)
    parser.add_argument("--hypervolume", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.epo / "toy_experiments" / "solvers"))
    sys.modules["mo_optimizers"] = types.ModuleType("mo_optimizers")  # its own imports what needs a GPU
    sys.modules["mo_optimizers"].__path__ = [str(arguments.hypervolume / "mo_optimizers")]
    warnings.simplefilter("ignore")  # cvxpy's
    search = importlib.import_module("epo_lp").EPO_LP
    maximize = importlib.import_module("mo_optimizers.hv_maximization")
    vars(maximize.torch)["float"] = maximize.torch.float64  # the weights are returned in this type
    rng = np.random.default_rng(0)
    stored = {}
    for tasks, members in ((2, 8), (3, 8), (10, 5)):
        gradients, losses = make_gradients(rng, tasks), rng.uniform(0.1, 3, (STEPS, tasks))
        preferences = rng.uniform(0.2, 2, (STEPS, tasks))
        near = rng.uniform(0.1, 3, (len(losses[::3]), 1)) * rng.uniform(0.99, 1.01, losses[::3].shape)
        losses[::3] = near / preferences[::3]
        found = [
            search(tasks, SIZE, preference).get_alpha(values, rows)
            for rows, values, preference in zip(gradients, losses, preferences, strict=True)
        ]
        population = make_population(rng, tasks, members)
        method = maximize.HvMaximization(members, tasks, np.full(tasks, 2.0))
        weights = [method.compute_weights(values).numpy() for values in population]
        stored |= {
            f"{tasks}/gradients": gradients,
            f"{tasks}/losses": losses,
            f"{tasks}/preferences": preferences,
            f"{tasks}/epo": np.stack(found),
            f"{tasks}/population": population,
            f"{tasks}/hypervolume": np.stack(weights),
        }
    np.savez_compressed(FOLDER / "pareto.npz", **stored)


if __name__ == "__main__":
    main()
