"""The console script `mtan-jax`."""

import runpy


def console() -> None:
    """Does the same as `python -m mtan_jax.main`.

    The module runs as `__main__`, so it handles Ctrl-C before its slow imports, and absl's --help and processes started
    with `multiprocessing` find what they expect. An import of `mtan_jax.main` would start with the slow imports.
    """
    runpy.run_module("mtan_jax.main", run_name="__main__", alter_sys=True)
