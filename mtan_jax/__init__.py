"""Multi-Task Attention Networks in JAX.

Example:
    >>> import mtan_jax as mtan
    >>> config = mtan.load_config("streets:smoke")
    >>> run = mtan.fit(config, "runs/smoke")  # doctest: +SKIP
    >>> run.metrics[-1]["semantic/miou"]  # doctest: +SKIP
    >>> mtan.predict(run, images)["depth"]  # doctest: +SKIP

The names in `__all__` are imported when they are first used, so `import mtan_jax.weighting` imports little more than
JAX and optax.
"""

import importlib

from mtan_jax.runtime import home

home.provide_matplotlib()  # before any module imports it

__version__ = "0.1.0"

# Name -> the module that defines it.
_API = {
    "Backbone": "mtan_jax.models",
    "Experiment": "mtan_jax.experiment",
    "Flow": "mtan_jax.models",
    "Run": "mtan_jax.commands.run",
    "Stage": "mtan_jax.models",
    "Task": "mtan_jax.tasks",
    "build_model": "mtan_jax.models",
    "compare_runs": "mtan_jax.compare.comparison",
    "evaluate": "mtan_jax.commands.evaluate",
    "fit": "mtan_jax.commands.train",
    "load_config": "mtan_jax.commands.config_file",
    "predict": "mtan_jax.commands.predict",
    "run_sweep": "mtan_jax.sweep",
    "weighting": "mtan_jax",
}

__all__ = ["__version__", *_API]


def __getattr__(name: str) -> object:
    if name not in _API:
        raise AttributeError(f"module 'mtan_jax' has no attribute {name!r}; it has: {', '.join(__all__)}")
    if name == "weighting":
        return importlib.import_module("mtan_jax.weighting")
    return getattr(importlib.import_module(_API[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
