"""Runs steps of mtan_jax on command; `run.py` starts it.

Commands are lines on stdin with tabs between words, answers are lines of JSON on stdout:

- `versions`;
- `make LIBRARY METHOD VARIANT`: compiles the step, and saves the first update of the shared parameters and of the
  heads; returns the seconds that the compilation took, and the file;
- `time LIBRARY METHOD VARIANT STEPS`: returns seconds per step.
"""

import argparse
import functools
import json
import pathlib
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
from problem import CAGRAD_C, LEARNING_RATE, Problem, make_problem, measure, orders, strides

from mtan_jax.weighting import GRADIENT_METHODS, equal, sum_tasks, task_gradients

OPTIONS: dict[str, dict[str, Any]] = {"cagrad": {"c": CAGRAD_C, "rescale": "none", "times_tasks": False}}


def start_params(problem: Problem) -> dict[str, Any]:
    """The initial weights, with kernels in JAX' order of axes."""

    def layer(weights: np.ndarray, bias: np.ndarray) -> dict[str, jax.Array]:
        axes = (2, 3, 1, 0) if weights.ndim == 4 else (1, 0)
        return {"kernel": jnp.asarray(weights.transpose(axes)), "bias": jnp.asarray(bias)}

    heads = {f"task_{i}": layer(*head) for i, head in enumerate(problem.heads)}
    return {"trunk": [layer(*pair) for pair in problem.trunk], "heads": heads}


def losses_of(problem: Problem, params: Any, x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    """The loss of each task."""
    features = x
    for i, layer in enumerate(params["trunk"]):
        if problem.network == "cnn":
            features = jax.lax.conv_general_dilated(
                features,
                layer["kernel"],
                window_strides=(strides(problem)[i],) * 2,
                padding=((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        else:
            features = features @ layer["kernel"]
        features = jax.nn.relu(features + layer["bias"])
    if problem.network == "cnn":
        features = features.mean((1, 2))
    outputs = {task: features @ head["kernel"] + head["bias"] for task, head in params["heads"].items()}
    return {task: ((output - y[i]) ** 2).mean() for i, (task, output) in enumerate(outputs.items())}


def make_step(problem: Problem, method: str, variant: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Returns what makes the initial state, and the compiled step from a state to the next."""
    tasks = tuple(f"task_{i}" for i in range(problem.tasks))
    if method == "equal":
        chain = optax.chain(equal(tasks), sum_tasks(tasks))
    else:
        chain = GRADIENT_METHODS[method](tasks, backward=variant, **OPTIONS.get(method, {}))
    tx = optax.chain(chain, optax.sgd(LEARNING_RATE))
    x = problem.x.transpose(0, 2, 3, 1) if problem.network == "cnn" else problem.x
    batch = jax.device_put((x, problem.y))

    def start() -> Any:
        params = start_params(problem)
        return params, tx.init(params)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, x: jax.Array, y: jax.Array) -> Any:
        params, opt_state = state
        gradients = task_gradients(lambda params: losses_of(problem, params, x, y), params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    compiled = step.lower(start(), *batch).compile()
    return start, lambda state: compiled(state, *batch)


def first_update(problem: Problem, start: Callable[[], Any], step: Callable[[Any], Any]) -> dict[str, np.ndarray]:
    """The change of the shared parameters and of the heads in the first step, each as one vector in PyTorch's order."""
    before = jax.device_get(start()[0])
    after = jax.device_get(step(start())[0])
    difference = jax.tree.map(np.subtract, after, before)

    def vector(layers: Any) -> np.ndarray:
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}
        arrays = [(layer["kernel"].transpose(axes[layer["kernel"].ndim]), layer["bias"]) for layer in layers]
        return np.concatenate([array.ravel() for pair in arrays for array in pair])

    return {
        "shared": vector(difference["trunk"]),
        "heads": vector([difference["heads"][f"task_{i}"] for i in range(problem.tasks)]),
    }


def main() -> None:
    """Answers commands until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="where the first updates go")
    arguments = parser.parse_args()
    problem = make_problem(arguments.network, arguments.tasks)
    made: dict[tuple[str, str], Any] = {}
    for order, *rest in orders(sys.stdin):
        if order == "versions":
            answer: dict[str, Any] = {
                "jax": jax.__version__,
                "jaxlib": jaxlib.__version__,
                "optax": optax.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            }
        elif order == "make":
            library, method, variant = rest
            before = time.perf_counter()
            made[method, variant] = make_step(problem, method, variant)
            seconds = time.perf_counter() - before
            path = arguments.folder / f"{library} {method} {variant}.npz"
            np.savez(path, **first_update(problem, *made[method, variant]))
            answer = {"make_s": round(seconds, 2), "update": str(path)}
        else:
            _, method, variant, steps = rest
            answer = {"s": measure(*made[method, variant], jax.block_until_ready, int(steps))}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
