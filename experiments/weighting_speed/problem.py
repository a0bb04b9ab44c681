"""The networks, the batch and the methods of the benchmark, as NumPy arrays and names: both sides import this file."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

LEARNING_RATE = 0.01
METHODS = ("equal", "mgda", "pcgrad", "cagrad", "imtl_g", "nash_mtl", "aligned_mtl", "upgrad")
CAGRAD_C = 0.5
WARM_UP = 1  # steps after each restart that are not timed

# Width of the input and of each layer; channels and stride of each 3x3 convolution.
MLP = (64, 256, 256, 256)
CNN = ((3, 1), (16, 1), (32, 2), (64, 2), (64, 2))
MLP_ROWS, CNN_ROWS, CNN_SIZE = 256, 16, 32


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network with hard parameter sharing: a trunk, and one linear head per task with a mean squared error.

    Attributes:
        network: "mlp" or "cnn".
        tasks: number of tasks.
        trunk: (weights, bias) of each layer; weights are [out, in] or [out, in, 3, 3].
        heads: (weights, bias) of each task; weights are [1, features].
        x: [rows, features] or [rows, channels, height, width].
        y: targets, [tasks, rows, 1].
    """

    network: str
    tasks: int
    trunk: list[tuple[np.ndarray, np.ndarray]]
    heads: list[tuple[np.ndarray, np.ndarray]]
    x: np.ndarray
    y: np.ndarray


def make_problem(network: str, tasks: int) -> Problem:
    """Makes the same problem in every process."""
    rng = np.random.default_rng(0)
    if network == "mlp":
        shapes = [(n, m) for m, n in itertools.pairwise(MLP)]
        x = rng.normal(size=(MLP_ROWS, MLP[0]))
    else:
        shapes = [(n, m, 3, 3) for (m, _), (n, _) in itertools.pairwise(CNN)]
        x = rng.normal(size=(CNN_ROWS, CNN[0][0], CNN_SIZE, CNN_SIZE))
    trunk = [_layer(rng, shape) for shape in shapes]
    heads = [_layer(rng, (1, shapes[-1][0])) for _ in range(tasks)]
    flat = x.reshape(len(x), -1)
    mixing = rng.normal(size=(flat.shape[1], tasks)) / np.sqrt(flat.shape[1])
    y = (np.linspace(1, 3, tasks) * np.tanh(flat @ mixing)).T[..., None]
    return Problem(network, tasks, trunk, heads, x.astype(np.float32), y.astype(np.float32))


def strides(problem: Problem) -> list[int]:
    """The stride of each convolution."""
    return [stride for _, stride in CNN[1:]] if problem.network == "cnn" else []


def measure(start: Callable[[], Any], step: Callable[[Any], Any], wait: Callable[[Any], Any], steps: int) -> float:
    """Returns seconds per step, over `steps` steps from the initial weights, after `WARM_UP` more.

    Args:
        start: returns the initial state.
        step: maps a state to the next.
        wait: returns when the state is computed.
        steps: number of steps that are timed together.
    """
    state = start()
    for _ in range(WARM_UP):
        state = step(state)
    wait(state)
    before = time.perf_counter()
    for _ in range(steps):
        state = step(state)
    wait(state)
    return (time.perf_counter() - before) / steps


def _layer(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    scale = np.sqrt(2 / np.prod(shape[1:]))
    return (rng.normal(size=shape) * scale).astype(np.float32), np.zeros(shape[0], np.float32)


def orders(stream: Any) -> Iterator[list[str]]:
    """The commands on stdin, one per line, split at tabs."""
    for line in stream:
        yield line.rstrip("\n").split("\t")
