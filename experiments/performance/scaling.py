"""Measures how compile time and memory traffic of a training step grow with the number of tasks."""

import dataclasses
import time
from typing import Any

import jax
import optax

from mtan_jax import steps, tasks
from mtan_jax.config import default_config
from mtan_jax.models import build_model
from mtan_jax.weighting import build_weighting

NUMBERS = (2, 10)  # copies of the same tasks
KINDS = (tasks.semantic(13), tasks.depth(), tasks.normal())


def measure_scaling(size: tuple[int, int], rows: int) -> dict[str, Any]:
    """Compiles the step of MTAN on SegNet with few and with many tasks; runs nothing.

    Args:
        size: height and width of the images.
        rows: images per step.
    """
    found = {str(number): _compile(number, size, rows) for number in NUMBERS}
    few, many = (found[str(number)] for number in NUMBERS)
    return found | {"ratio": {name: round(many[name] / few[name], 2) for name in few}}


def _compile(number: int, size: tuple[int, int], rows: int) -> dict[str, float]:
    jax.clear_caches()
    config = default_config().model
    config.arch, config.backbone = "mtan", "segnet"
    kinds = [KINDS[i % len(KINDS)] for i in range(number)]
    found = tuple(dataclasses.replace(kind, name=f"{kind.name}_{i}") for i, kind in enumerate(kinds))
    model = build_model(config, found)
    tx = build_weighting("equal", [task.name for task in found], optax.adam(1e-4))
    state = jax.eval_shape(lambda key: steps.create_state(model, tx, key, size, number), jax.random.key(0))
    step = jax.jit(steps.make_train_step(model, found, tx, key=jax.random.key(1)), donate_argnums=0)
    start = time.process_time()
    lowered = step.lower(state, _batch(found, size, rows))
    lowering = time.process_time() - start
    start = time.process_time()
    compiled = lowered.compile()
    seconds = time.process_time() - start
    cost = compiled.cost_analysis()
    return {
        "lower_cpu_seconds": round(lowering, 1),
        "compile_cpu_seconds": round(seconds, 1),
        "gflop": round(cost["flops"] / 1e9, 1),
        "gigabytes": round(cost["bytes accessed"] / 1e9, 2),
        "temporary_gigabytes": round(compiled.memory_analysis().temp_size_in_bytes / 1e9, 2),
    }


def _batch(found: tuple[Any, ...], size: tuple[int, int], rows: int) -> dict[str, Any]:
    """Returns the shapes of a batch."""

    def array(*shape: int, dtype: Any = "float32") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *shape), dtype)

    targets = {"semantic": array(*size, dtype="int32"), "depth": array(*size, 1), "normal": array(*size, 3)}
    used = {task.target for task in found}
    return {
        "image": array(*size, 3),
        "targets": {name: targets[name] for name in used},
        "labelled": {name: array(dtype="bool") for name in used},
        "weight": array(),
    }
