"""Compiles and runs training step and prediction of our networks on random images."""

import time
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from mtan_jax import steps, tasks
from mtan_jax.config import default_config
from mtan_jax.models import build_model
from mtan_jax.weighting import build_weighting

TASKS = (tasks.semantic(13), tasks.depth(), tasks.normal())
# JAX's matmul precision. The default for float32 is TF32 on GPUs that have it, and float32 on CPUs.
MULTIPLICATION = {"float32": "highest", "tf32": "default", "bfloat16": "default"}


class Ours:
    """One of our networks, compiled.

    Args:
        arch: `config.model.arch`.
        backbone: `config.model.backbone`.
        size: height and width of the images.
        rows: images per step.
        precision: a key of `MULTIPLICATION`.
        channels: `config.model.width`.
        options: XLA's options for the two timed programs.

    Attributes:
        built: seconds of compilation, and XLA's counts of the training step.
    """

    def __init__(
        self,
        arch: str,
        backbone: str,
        size: tuple[int, int],
        rows: int,
        precision: str = "float32",
        channels: float = 1.0,
        options: Mapping[str, Any] = types.MappingProxyType({}),
    ):
        config = default_config().model
        config.arch, config.backbone = arch, backbone
        config.width = channels
        config.dtype = "bfloat16" if precision == "bfloat16" else "float32"
        model, names = build_model(config, TASKS), [task.name for task in TASKS]
        tx = build_weighting("equal", names, optax.adam(1e-4))

        def create(key: Any) -> Any:
            return steps.create_state(model, tx, key, size, len(TASKS))

        make = jax.jit(create, compiler_options={"xla_backend_optimization_level": 0})
        self._state, self._batch = make(jax.random.key(0)), jax.device_put(_batch(size, rows))
        self._variables = jax.tree.map(jax.numpy.copy, self._state.variables)
        step = jax.jit(steps.make_train_step(model, TASKS, tx, key=jax.random.key(1)), donate_argnums=0)
        predict = jax.jit(lambda variables, image: model.apply(variables, image, train=False))
        with jax.default_matmul_precision(MULTIPLICATION[precision]):
            start = time.perf_counter()
            self._step = step.lower(self._state, self._batch).compile(dict(options))
            seconds = time.perf_counter() - start
            self._predict = predict.lower(self._variables, self._batch["image"]).compile(dict(options))
        cost, memory = self._step.cost_analysis(), self._step.memory_analysis()
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        self.built = {
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(self._state.params)),
            "compile_seconds": round(seconds, 1),
            "gflop": round(cost["flops"] / 1e9, 1),
            "gigabytes": round(cost["bytes accessed"] / 1e9, 2),
            "temporary_gigabytes": round(memory.temp_size_in_bytes / 1e9, 2),
            "peak_gigabytes": round((held + memory.temp_size_in_bytes) / 1e9, 2),
        }

    def run(self, what: str, times: int = 1) -> float:
        """Runs steps ("train") or predictions ("infer") without synchronization; returns the seconds of one."""
        start = time.perf_counter()
        for _ in range(times):
            if what == "train":
                last = self._state = self._step(self._state, self._batch)
            else:
                last = self._predict(self._variables, self._batch["image"])
        jax.block_until_ready(last)
        return (time.perf_counter() - start) / times


def _batch(size: tuple[int, int], rows: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(rows, *size, 3)).astype(np.float32)
    return {
        "image": rng.random((rows, *size, 3), np.float32),
        "targets": {
            "semantic": rng.integers(0, 13, (rows, *size)).astype(np.int32),
            "depth": rng.random((rows, *size, 1), np.float32) + np.float32(0.1),
            "normal": normal / np.linalg.norm(normal, axis=-1, keepdims=True),
        },
        "labelled": {task.name: np.ones(rows, bool) for task in TASKS},
        "weight": np.ones(rows, np.float32),
    }
