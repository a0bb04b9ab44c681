"""Compiles the programs of mtan_jax: the training step under a method, the losses alone, the optimizer alone."""

import gc
import itertools
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from mtan_jax.experiment import Experiment
from mtan_jax.runtime import parallel
from mtan_jax.steps.optimizer import build_optimizer
from mtan_jax.training import evaluation

BATCHES = 4  # different batches, used in turn


class Program:
    """A compiled program and its inputs; with `moves`, its output is the next state, as for a training step.

    Attributes:
        built: seconds and sizes, see `build`.
        found: output of the last run.
    """

    def __init__(self, mapped: Any, state: Any, inputs: list[Any], *, moves: bool = True):
        self.found, self._state, self._inputs, self._moves = None, state, inputs, moves
        self._compiled, self.built = build(mapped, state, inputs[0])

    def run(self, turn: int) -> dict[str, float]:
        """Runs once on the next input; returns milliseconds of wall time and of CPU time of all threads."""
        start = _clocks()
        self.found = jax.block_until_ready(self._compiled(self._state, self._inputs[turn % len(self._inputs)]))
        wall, cpu = _since(start)
        if self._moves:
            self._state = self.found
        return {"wall_ms": round(1e3 * wall, 2), "cpu_ms": round(1e3 * cpu, 2)}

    @property
    def seen(self) -> dict[str, bool]:
        """Returns whether all outputs of the last run are finite."""
        return {"finite": all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(jax.device_get(self.found)))}


def build(mapped: Any, *arguments: Any) -> tuple[Any, dict[str, Any]]:
    """Compiles with empty caches.

    Returns:
        The executable and a record: wall and CPU seconds of tracing with lowering, and of compiling; XLA's counts of
        floating-point operations and of bytes accessed (the body of a loop counts once); bytes of arguments, of
        temporary memory, and of both with the outputs that do not reuse an argument's memory; the load average.
    """
    jax.clear_caches()
    gc.collect()
    start = _clocks()
    lowered = mapped.lower(*arguments)
    lower_wall, lower_cpu = _since(start)
    start = _clocks()
    compiled = lowered.compile()
    compile_wall, compile_cpu = _since(start)
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    outside = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return compiled, {
        "lower_wall_s": round(lower_wall, 2),
        "lower_cpu_s": round(lower_cpu, 2),
        "compile_wall_s": round(compile_wall, 2),
        "compile_cpu_s": round(compile_cpu, 2),
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "argument_bytes": memory.argument_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "held_bytes": outside + memory.temp_size_in_bytes,
        "load_average": round(os.getloadavg()[0], 1),
    }


class Maker:
    """Makes programs that start from the same variables.

    Attributes:
        experiment: with equal weights.
        batches: the first training batches, as NumPy arrays.
    """

    def __init__(self, configure: Callable[[], ml_collections.ConfigDict]):
        self._configure, self._weights = configure, None
        self.experiment = self._under("equal", {})
        self.experiment.data.prepare()
        self.batches = _batches(self.experiment)

    def load(self, weights: str | None) -> None:
        """Loads the variables from a file of PyTorch weights; None: random variables."""
        self._weights = weights
        self._state = jax.device_get(self._under("equal", {}).init_state())

    def step(self, method: str, options: Mapping[str, Any]) -> Program:
        """Compiles the training step under a method; also records the bytes of its optimizer state."""
        experiment = self._under(method, options)
        opt_state = jax.jit(experiment.tx.init)(self._state.params)
        state = parallel.place_state(self._state.replace(opt_state=opt_state))
        program = Program(experiment.train_step, state, [parallel.place_batch(b) for b in _batches(experiment)])
        program.built["opt_state_bytes"] = sum(leaf.nbytes for leaf in jax.tree.leaves(opt_state))
        return program

    def losses(self) -> Program:
        """Compiles a forward pass: training losses and the new BatchNorm statistics."""
        model, tasks = self.experiment.model, self.experiment.tasks

        def forward(variables: Any, batch: Any) -> Any:
            predictions, updates = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
            losses = []
            for task in tasks:
                target, labelled = batch["targets"][task.target], batch["labelled"][task.target]
                total, count = task.loss(predictions[task.name], target, labelled)
                losses.append(total / jnp.maximum(count, 1))
            return jnp.stack(losses), updates["batch_stats"]

        inputs = [parallel.place_batch(batch) for batch in self.batches]
        return Program(
            parallel.map_eval_step(forward), parallel.place_state(self._state.variables), inputs, moves=False
        )

    def optimizer(self) -> Program:
        """Compiles the part of the step after the gradient."""
        tx = build_optimizer(self.experiment.config.optimizer, self.experiment.learning_rate)

        def update(state: tuple[Any, Any], gradient: Any) -> tuple[Any, Any]:
            params, opt_state = state
            updates, opt_state = tx.update(gradient, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        params = self._state.params
        gradient = jax.tree.map(lambda leaf: np.full((1, *leaf.shape), 1e-3, leaf.dtype), params)
        state = parallel.place_state((params, jax.jit(tx.init)(params)))
        return Program(parallel.map_train_step(update), state, [jax.device_put(gradient)])

    def _under(self, method: str, options: Mapping[str, Any]) -> Experiment:
        config = self._configure()
        config.weighting = ((method, dict(options)),)
        config.model.init_from = self._weights
        return Experiment.from_config(config)


def _batches(experiment: Experiment) -> list[Any]:
    stream = experiment.train_batches(0)
    found = [evaluation.without_ids(batch) for batch in itertools.islice(stream, BATCHES)]
    stream.close()
    return found


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> tuple[float, float]:
    return time.perf_counter() - start[0], time.process_time() - start[1]
