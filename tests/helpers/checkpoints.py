"""States of every kind of array, saved as checkpoints."""

import contextlib
import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtan_jax.runtime import parallel
from mtan_jax.runtime.checkpoint import FOLDER, Checkpoints
from mtan_jax.steps.state import TrainState, Window

METRIC = "semantic/miou"


def open_checkpoints(workdir, keep=2, higher_is_better=True, read_only=False, **options):
    return Checkpoints(
        workdir,
        keep=keep,
        best_metric=METRIC,
        higher_is_better=higher_is_better,
        read_only=read_only,
        **options,
    )


def make_state(step, size=3000):
    """A state with every kind of array that training has: float32, bfloat16, int32 and bool; odd values too."""
    rng = np.random.default_rng(step)
    params = {
        "kernel": rng.normal(size=size).astype(np.float32),
        "half": jnp.asarray(rng.normal(size=(3, 5)), jnp.bfloat16),
        "odd": np.array([-0.0, 1e-42, np.inf, -np.inf, np.nan], np.float32),
    }
    window = Window.empty(3)
    state = TrainState(
        step=jnp.int32(step),
        params=params,
        batch_stats={"layer": {"mean": rng.normal(size=7).astype(np.float32)}},
        opt_state=(optax.adam(1e-3).init(params), {"history": [np.float32(step), np.arange(4, dtype=np.int32)]}),
        window=Window(**{**vars(window), "bad_tasks": np.array([False, True, False])}),
    )
    return parallel.place_state(state)


def template(size=3000):
    return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, make_state(0, size)))


def save_all(workdir, metrics, **options):
    """Saves one state per step, with the metric of each step or None."""
    with open_checkpoints(workdir, **options) as checkpoints:
        for step, value in metrics.items():
            checkpoints.save(make_state(step), None if value is None else {METRIC: value, "depth/loss": 1.0})


def folders(workdir):
    return sorted(int(path.name) for path in (workdir / FOLDER).iterdir() if path.name.isdigit())


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).shape == np.asarray(b).shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@contextlib.contextmanager
def small_files(folder):
    """No file may grow larger than 200 kB: fails as a full disk does, and needs no rights."""
    folder.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
