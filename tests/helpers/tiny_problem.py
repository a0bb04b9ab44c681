"""A network and batches small enough for tests; the numbers of the real ones do not depend on size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtan_jax import steps, tasks
from mtan_jax.models import Numerics
from mtan_jax.models.backbones.segnet import segnet
from mtan_jax.models.mtan import MTAN
from mtan_jax.weighting import build_weighting

TASKS = (tasks.semantic(3), tasks.depth(), tasks.normal())
NAMES = tuple(task.name for task in TASKS)


def make_model(axis_name=None, widths=(4, 6), dtype=jnp.float32, param_dtype=jnp.float32, task_list=TASKS):
    return MTAN(segnet(1.0, Numerics(axis_name, dtype, param_dtype), widths=widths), task_list)


def make_tx(weighting="equal", optimizer=None, **options):
    return build_weighting(
        weighting,
        NAMES,
        optax.adam(1e-2) if optimizer is None else optimizer,
        options=options,
        defaults={"steps_per_epoch": 2, "learning_rate": 1e-2},
    )


def make_state(model, tx, task_list=TASKS):
    return jax.jit(lambda key: steps.create_state(model, tx, key, (16, 16), len(task_list)))(jax.random.key(0))


def make_batch(seed=0, rows=8, size=16):
    """Void pixels and missing labels fall unevenly: rows 0 and 1 have hardly any label, row 2 none at all."""
    rng = np.random.default_rng(seed)
    semantic = rng.integers(0, 3, (rows, size, size)).astype(np.int32)
    depth = rng.uniform(0.5, 2, (rows, size, size, 1)).astype(np.float32)
    normal = rng.normal(size=(rows, size, size, 3)).astype(np.float32)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    undefined = rng.uniform(size=(rows, size, size)) < 0.2
    undefined[:2, 2:] = True
    semantic[undefined], depth[undefined], normal[undefined] = -1, 0, 0
    labelled = {
        "semantic": np.ones(rows, bool),
        "depth": np.arange(rows) % 3 > 0,
        "normal": np.arange(rows) > rows // 2,
    }
    for values in labelled.values():
        values[2] = False
    return {
        "image": rng.uniform(size=(rows, size, size, 3)).astype(np.float32),
        "targets": {"semantic": semantic, "depth": depth, "normal": normal},
        "labelled": labelled,
        "weight": np.ones(rows, np.float32),
    }
