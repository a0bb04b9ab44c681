"""Compares our networks with the authors' stored outputs on JAX's device, such as a GPU.

    python experiments/performance/agreement.py

needs pytest, but neither PyTorch nor the authors' code: it reads the reference values of tests/models/test_authors.py,
outputs of narrow networks in float64. The largest errors are written to results_gpu.json beside this file.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "tests"))

from models import test_authors as authors  # noqa: E402

from mtan_jax.interop import torch  # noqa: E402
from mtan_jax.models import ARCHITECTURES, Numerics  # noqa: E402
from mtan_jax.models.backbones.segnet import segnet  # noqa: E402
from mtan_jax.runtime import paths  # noqa: E402

ARCHS = ("mtan", "split")


def main() -> None:
    """Runs the experiment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=paths.expanded, default=pathlib.Path(__file__).parent, help="folder of the results"
    )
    path = parser.parse_args().out / "results_gpu.json"
    found: dict[str, Any] = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    for name, measured in measure():
        found[name] = measured
        results = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(results | {"agreement": found}, indent=1) + "\n")
        sys.stdout.write(f"{name}: {json.dumps(measured)}\n")
        sys.stdout.flush()


def measure() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each comparison with its errors."""
    yield "one product and convolution", {name: arithmetic(name) for name in ("default", "highest")}
    with jax.enable_x64(True):
        for arch in ARCHS:
            network = authors.segnet_network(arch)
            yield f"{arch}, float64", {weights: errors(network, weights) for weights in ("random", "trained")}
    for name in ("highest", "default"):
        with jax.default_matmul_precision(name):
            found = {weights: errors_in_float32(weights) for weights in ("random", "trained")}
        yield f"mtan, float32, {name}", found


def arithmetic(precision: str) -> dict[str, float]:
    """Returns float32 errors of a product and a convolution: 1e-4 or more with TF32, 1e-6 without."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 32, 32, 64)), rng.normal(size=(3, 3, 64, 64))

    def run(x: Any, kernel: Any) -> tuple[jax.Array, jax.Array]:
        convolved = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.einsum("bhwc,cd->bhwd", x, kernel[0, 0]), convolved

    with jax.enable_x64(True):
        expected = [np.asarray(array) for array in jax.jit(run)(x, kernel)]
    with jax.default_matmul_precision(precision):
        found = jax.jit(run)(x.astype(np.float32), kernel.astype(np.float32))
    pairs = zip(("product", "convolution"), found, expected, strict=True)
    return {name: float(np.linalg.norm(array - wanted) / np.linalg.norm(wanted)) for name, array, wanted in pairs}


def errors(network: Any, weights: str) -> dict[str, float]:
    """Returns the largest relative errors of predictions in both modes, losses and gradients.

    Args:
        network: a network of test_authors.py, in float64.
        weights: "random" or "trained".
    """
    variables, stored = network.variables(weights), network.stored
    gradient, (predictions, losses, _) = network.run(variables["params"], variables["batch_stats"])
    found = {
        "evaluation": _of_predictions(network.predict(variables), stored, f"{weights}/eval"),
        "training": _of_predictions(predictions, stored, f"{weights}/train"),
        "loss": max(abs(float(losses[name] / stored[f"{weights}/loss/{name}"]) - 1) for name in losses),
    }
    entries = torch.to_state_dict({"params": gradient, "batch_stats": {}}, network.layout)
    of_gradients = []
    for name, wanted in network.their_entries(f"{weights}/gradient").items():
        error, size = np.linalg.norm(entries[name] - wanted), np.linalg.norm(wanted)
        if size > 1e-10:  # the gradient of a bias before a BatchNorm is rounding only
            of_gradients.append(float(error / size))
    return found | {"gradient of a parameter": max(of_gradients)}


def errors_in_float32(weights: str) -> dict[str, float]:
    """Returns the largest error of MTAN's predictions in evaluation, computed in float32."""
    backbone = segnet(1.0, Numerics(), widths=authors.NARROW)
    model = ARCHITECTURES["mtan"](backbone, authors.TASKS)
    network = authors.Network(model, "mtan", "segnet", authors.TASKS, "segnet_networks")
    network.image = network.image.astype(np.float32)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), network.variables(weights))
    return {"evaluation": _of_predictions(network.predict(variables), network.stored, f"{weights}/eval")}


def _of_predictions(predictions: Any, stored: Any, group: str) -> float:
    pairs = [(found[:, ::3, ::3], stored[f"{group}/{name}"]) for name, found in predictions.items()]
    return max(float(authors.relative(found, authors.channels_last(wanted))) for found, wanted in pairs)


if __name__ == "__main__":
    main()
