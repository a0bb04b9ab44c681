"""MTAN as it is, 13 classes, two images of 288x384: against the authors' class, stored by make_full_size.py.

Rounding in float32 turns the position of some 5 of 6.7 million max-poolings, where the two largest values of a window
nearly tie: SegNet's unpooling then puts a feature elsewhere, and predictions around it, or all of them where BatchNorm
takes the moments of the batch, are off by more than rounding. PyTorch's own predictions in float32 are so too. So what
is exact is said of two parts: predictions where the positions are given, and positions.
"""

import dataclasses
import functools
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from reference.seeded import seeded_image, seeded_state

from mtan_jax import tasks
from mtan_jax.interop import torch
from mtan_jax.interop.names import layouts
from mtan_jax.models import ARCHITECTURES, Numerics, ops
from mtan_jax.models.backbones import segnet

REFERENCE = pathlib.Path(__file__).parents[1] / "reference"
NORMAL = tasks.normal()
# Normals come as vectors, before the division by their length.
TASKS = (tasks.semantic(13), tasks.depth(), dataclasses.replace(NORMAL, activation=lambda vector: vector))
# Every 16th row and column is stored.
SAMPLE = np.s_[:, ::16, ::16]
# PyTorch's errors were stored on a processor with AVX-512. On others sums are rounded in another order: with AVX2
# PyTorch's own errors, computed anew, are 2.2 times as large, 0.32 % of its normals are beyond 1e-4 where positions are
# given (AVX-512: 0.03 %), and where not, 1.7 % more of its predictions are.
CPU = pathlib.Path("/proc/cpuinfo")
HAS_AVX512 = CPU.exists() and "avx512f" in CPU.read_text()
MOST_TIMES, MOST_NORMALS, MOST_MORE = (2, 0.003, 0.01) if HAS_AVX512 else (3, 0.006, 0.02)


@functools.cache
def stored():
    with np.load(REFERENCE / "full_size.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def expected(name):
    """A stored prediction, channels last."""
    return np.moveaxis(stored()[name], 1, -1)


def run(dtype, mode, given=None):
    """Predictions by name, and features and positions of the encoder's max-poolings, the finest first.

    Args:
        dtype: of everything.
        mode: "eval" or "train".
        given: positions that unpooling goes by, in place of the network's own.
    """
    model = ARCHITECTURES["mtan"](segnet.segnet(numerics=Numerics(None, dtype, dtype)), TASKS)
    image = jnp.asarray(np.moveaxis(seeded_image(2, 288, 384), 1, -1), dtype)
    template = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
    template = {name: template[name] for name in ("params", "batch_stats")}
    layout = layouts("mtan", "segnet", tuple(task.name for task in TASKS))[0]
    variables = traverse_util.unflatten_dict(torch.to_variables(seeded_state(stored()), template, (layout,)))

    # Optimised, as outside the tests: otherwise long sums are rounded worse.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})
    def predict(variables, image, given):
        shown, max_pool_of_ops = [], ops.max_pool

        def max_pool(x):
            values, position = max_pool_of_ops(x)
            shown.append((x, position))
            return values, position if given is None else given[len(shown) - 1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops, "max_pool", max_pool)
            predictions, _ = model.apply(variables, image, train=mode == "train", mutable=["batch_stats"])
        return predictions, shown

    predictions, shown = jax.device_get(predict(variables, image, given))
    vector = predictions["normal"]
    return predictions | {"vector": vector, "normal": np.asarray(NORMAL.activation(vector))}, shown


def errors(found, exact):
    """Differences as shares of the range, by name."""
    return {name: np.abs(found[name] - exact[name]) / np.ptp(exact[name]) for name in exact}


def at(features, position):
    """The values at positions 0..3 of 2x2 windows."""
    batch, height, width, channels = position.shape
    windows = features.reshape(batch, height, 2, width, 2, channels).swapaxes(2, 3).reshape(*position.shape[:3], 4, -1)
    return np.take_along_axis(windows, position[..., None, :].astype(int), 3)[..., 0, :]


@pytest.mark.long
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_full_size_in_float32(mode):
    """Five statements, each in evaluation and in training mode.

    - In float64 we are the authors' class at full size: predictions to 1e-9, every position the same.
    - With these positions given, our predictions in float32 are the authors' in float64 to 1e-4 of their range
      everywhere (found: 3e-5). For normals this is said of the vectors before the division by their length, which
      magnifies the errors of short ones: after it, it holds of the longer half, and of all but 0.12 % (PyTorch's own
      error: 0.03 %). Median error and 99th percentile are at most `MOST_TIMES` PyTorch's own (found:
      1.6 times; with AVX2 2.1).
    - Positions in float32 differ from those in float64 only where values tie to 2e-5 of the layer's largest (found:
      4e-7; PyTorch: 9e-7), in fewer than 50 of 6.7 million windows (found: 5; PyTorch: 6 and 7).
    - With the positions of float32, as it is, our predictions are those of float64 at the same positions to 1e-4 of
      their range everywhere: besides turning positions, float32 does nothing else.
    - In evaluation mode the median of that network's error is at most `MOST_TIMES` PyTorch's own (found: 1.4 times),
      and more than 1e-4 of the range off are `MOST_MORE` more at most (found: 0.8 % fewer). In training mode that is
      chance: where one turned position enters, the moments of the batch carry it everywhere.
    """
    with jax.enable_x64(True):
        exact, exact_pools = run(jnp.float64, mode)
    positions = [position for _, position in exact_pools]
    check_float64(mode, exact, positions)
    with jax.enable_x64(False):
        free, pools = run(jnp.float32, mode)
        given, _ = run(jnp.float32, mode, positions)
    turned = [position for _, position in pools]
    with jax.enable_x64(True):
        exact_at_turned, _ = run(jnp.float64, mode, turned)
    check_given(mode, given, exact)
    check_positions(mode, exact_pools, turned)
    for name in ("semantic", "depth", "vector"):
        assert errors(free, exact_at_turned)[name].max() < 1e-4, name
    if mode == "eval":
        check_free(free, exact)


def check_float64(mode, exact, positions):
    for name in ("semantic", "depth", "vector"):
        wanted = expected(f"float64/{mode}/{name}")
        assert np.abs(exact[name][SAMPLE] - wanted).max() < 1e-9 * np.ptp(wanted), name
    checksums = [zlib.crc32(np.ascontiguousarray(position)) for position in positions]
    np.testing.assert_array_equal(checksums, stored()[f"positions/{mode}"])


def check_given(mode, given, exact):
    found = errors(given, exact)
    for name in ("semantic", "depth", "vector"):
        assert found[name].max() < 1e-4, name
        wanted = expected(f"float64/{mode}/{name}")
        assert np.abs(given[name][SAMPLE] - wanted).max() < 1e-4 * np.ptp(exact[name]), name
    length = np.linalg.norm(exact["vector"], axis=-1)
    assert found["normal"][length >= np.median(length)].max() < 1e-4
    assert (found["normal"] > 1e-4).mean() < MOST_NORMALS
    for name, error in found.items():
        _, median, percentile, _ = stored()[f"error/{mode}/given/{name}"]
        assert np.median(error) < MOST_TIMES * median, name
        assert np.quantile(error, 0.99) < MOST_TIMES * percentile, name


def check_positions(mode, exact_pools, positions):
    turned, gaps = [], []
    for (features, exact), position in zip(exact_pools, positions, strict=True):
        gap = at(features, exact) - at(features, position)
        turned.append((position != exact).sum())
        gaps.append(gap.max() / features.max())
    for numbers, largest in ((turned, gaps), (stored()[f"turned/{mode}"], stored()[f"gap/{mode}"])):
        assert max(largest) < 2e-5
        assert sum(numbers) < 50


def check_free(free, exact):
    """Evaluation, unpooling by the positions of float32, as the network does it: the few turned ones err the most."""
    for task in ("semantic", "depth", "normal"):
        least, largest = stored()[f"range/{task}"]
        error = np.abs(free[task][SAMPLE] - expected(f"eval/{task}")) / (largest - least)
        assert np.median(error) < 1e-5, task
        assert (error < 1e-4).mean() > 0.98, task
    for name, error in errors(free, exact).items():
        beyond, median, _, _ = stored()[f"error/eval/free/{name}"]
        assert np.median(error) < MOST_TIMES * median, name
        assert (error > 1e-4).mean() < beyond + MOST_MORE, name
