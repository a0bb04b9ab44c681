"""Checks that all variants compute the same values."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from problem import Problem, gradients
from variants import VariantMTAN

# Relative to the largest absolute value of a group of arrays, see `difference`.
FLOAT64_TOLERANCE = 1e-10  # rounding gave 1e-14
FLOAT32_TOLERANCE = 1e-4  # for losses and batch_stats; rounding gave 1e-6


def check_in_float64(problem: Problem, variants: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Compares predictions, in training and in evaluation, gradients and new batch_stats with the first variant's.

    In float64, because float32 is inconclusive: where rounding moves the input of a ReLU, of a max-pooling or of the L1
    loss across its kink, single gradients differ by 1e-2 of the largest in their group.

    Args:
        problem: the problem in float64.
        variants: masks and heads of each.

    Returns:
        The largest difference of each of these over all variants.

    Raises:
        SystemExit: a difference is above `FLOAT64_TOLERANCE`.
    """
    first, largest = None, {}
    for masks, heads in variants:
        model = VariantMTAN(problem.backbone, problem.tasks, masks, heads)

        @jax.jit
        def compute(state: Any, batch: Any, model: Any = model) -> dict[str, Any]:
            training, _ = model.apply(state.variables, batch["image"], train=True, mutable=["batch_stats"])
            new = problem.train_step(model)(state, batch)
            return {
                "predictions in training": training,
                "predictions in evaluation": model.apply(state.variables, batch["image"], train=False),
                "gradients": gradients(new),
                "batch_stats": new.batch_stats,
            }

        found = jax.device_get(compute(problem.state(), problem.batch))
        first = first or found
        for name, expected in first.items():
            off = difference(expected, found[name])
            demand(f"float64 {name} of masks {masks}, heads {heads}", off, FLOAT64_TOLERANCE)
            largest[name] = max(largest.get(name, 0.0), off)
    return largest


def difference(expected: Any, found: Any) -> float:
    """Returns the largest difference between two trees, relative to the largest value in each group.

    Arrays whose paths begin with the same two keys form a group, such as those of one attention stage. (Array by array
    would not work: the gradient of a bias before a BatchNorm is 0 except for rounding.)
    """
    off, scale = {}, {}
    for (path, a), b in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(found), strict=True):
        group, a, b = path[:2], np.asarray(a, np.float64), np.asarray(b, np.float64)
        off[group] = max(off.get(group, 0), np.abs(a - b).max())
        scale[group] = max(scale.get(group, 0), np.abs(a).max())
    return float(max(off[group] / scale[group] for group in off))


def demand(what: str, off: float, tolerance: float) -> None:
    """Exits if a difference is above the tolerance, or NaN."""
    if not off <= tolerance:
        raise SystemExit(f"{what} differ by {off:.1e} of the largest; at most {tolerance} was expected")
