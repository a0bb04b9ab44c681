"""Compresses parallel adapters across tasks by SVD, to initialize "parallel_svd"."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from mtan_jax.interop.files import WeightsError
from mtan_jax.types import Path, Shape
from mtan_jax.weighting.sharing import TASK_AXIS_PREFIX

FACTOR, BASIS = NAMES = ("factor", "basis")  # the arrays of `mtan_jax.models.layers.task_layers.LowRankConv`


def factorize(
    adapters: Float[np.ndarray, "t c d"], rank: int
) -> tuple[Float[np.ndarray, "t c r"], Float[np.ndarray, "r d"]]:
    """Factorizes the adapters of all tasks into factors per task and a basis that the tasks share.

    The products of factors and basis are the best approximation of rank r of the matrix [t*c, d] of all adapters. Rows
    of the basis are orthonormal, so a step of gradient descent with respect to the factors moves an adapter by the
    projection of its own gradient; the factors contain the singular values.

    Args:
        adapters: one matrix per task, which maps c to d channels.
        rank: at most d. Factors beyond the matrix' own rank are 0 up to rounding.

    Returns:
        Factors and basis, in float64.
    """
    tasks, inputs, outputs = adapters.shape
    stacked = np.asarray(adapters, np.float64).reshape(-1, outputs)
    stacked = np.pad(stacked, ((0, max(outputs - len(stacked), 0)), (0, 0)))  # so that there are d singular vectors
    left, singular, right = np.linalg.svd(stacked, full_matrices=False)
    factors = (left * singular)[: tasks * inputs, :rank]
    return factors.reshape(tasks, inputs, rank), right[:rank]


def compress_adapters(
    source: Mapping[Path, np.ndarray], source_tasks: Sequence[str], wanted: Mapping[Path, Shape], tasks: Sequence[str]
) -> dict[Path, np.ndarray]:
    """Replaces the adapters of a pretrained network by factors and bases where this network has these.

    A network that already has bases, from a run of "parallel_svd", remains as it is.

    Args:
        source: arrays of the pretrained network, by (collection, *path).
        source_tasks: names of its tasks.
        wanted: shapes of this network's arrays.
        tasks: names of this network's tasks.

    Raises:
        WeightsError: the pretrained network has neither parallel adapters nor bases, or has other tasks.
    """
    arrays = dict(source)
    for path in (path for path in wanted if path[-1] == BASIS and path not in source):
        module = path[1:-1]
        name = ("params", *module, TASK_AXIS_PREFIX + "adapter")
        rank, outputs = wanted[path].shape
        inputs = wanted["params", *module, TASK_AXIS_PREFIX + FACTOR].shape[1]
        adapters, expected = arrays.pop(name, None), (len(source_tasks), inputs, outputs)
        if adapters is None or adapters.shape != expected:
            found = "does not exist" if adapters is None else f"is {adapters.shape}"
            raise WeightsError(
                "config.model.arch = 'parallel_svd' compresses the adapters of a run of parallel_adapters; in the "
                f"pretrained network {'/'.join(name[1:])} {found}, expected {expected}. Train parallel_adapters with "
                "the same config.model.backbone and config.model.width, and give that run in config.model.init_from"
            )
        if set(source_tasks) != set(tasks):
            raise WeightsError(
                f"config.tasks = {', '.join(tasks)}; the adapters of the pretrained network are those of "
                f"{', '.join(source_tasks)}. Compress them for the same tasks; another task can be added in a later "
                "run of parallel_svd that starts from the compressed one"
            )
        factors, basis = factorize(adapters, rank)
        arrays["params", *module, TASK_AXIS_PREFIX + FACTOR], arrays[path] = factors, basis
    return arrays
