"""Sweeps: many runs of one program, each with some fields of its configuration changed.

Example:
    >>> from mtan_jax.sweep import product, run_sweep
    >>> runs = product("streets:smoke", {"weighting": ["equal", "dwa"], "seed": [0, 1]})
    >>> entries = run_sweep(runs, "runs/weightings")  # doctest: +SKIP
"""

from mtan_jax.sweep.grid import GridError, SweepRun, load_grid, product
from mtan_jax.sweep.sweep import run_sweep

__all__ = ["GridError", "SweepRun", "load_grid", "product", "run_sweep"]
