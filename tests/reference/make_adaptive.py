"""Writes adaptive.npz: how SoftAdapt and ReLoBRaLo weight given losses, by their authors' code, in float64.

    python make_adaptive.py --softadapt=<checkout of github.com/dr-aheydari/SoftAdapt, commit 66e7bd6> \
        --relobralo=<checkout of github.com/rbischof/relative_balancing, commit b3c76d2>

Needs PyTorch and findiff; the tests read the stored file only. NumPy functions stand in for those of TensorFlow that
ReLoBRaLo's rule calls.

For K = 2, 3 and 10 tasks:

- `K/losses` [20, K]: of 20 steps.
- `K/softadapt/VARIANT/N` [20 - N + 1, K]: the weights after N, N + 1, ... steps from the last N losses, for the
  variants plain, loss_weighted and normalized, N = 2, 5 and 6, and beta = 0.7.
- `K/keeps` [20]: whether each step compares with the previous weights; True at the first.
- `K/relobralo` [20, K]: the weights of each step, with alpha = 0.9 and T = 0.8.
"""

import argparse
import contextlib
import importlib
import io
import pathlib
import sys
import types

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent
STEPS = 20
ALPHA, TEMPERATURE, BETA = 0.9, 0.8, 0.7


def softadapt(losses):
    library = importlib.import_module("softadapt.algorithms")
    methods = {
        "plain": library.SoftAdapt,
        "loss_weighted": library.LossWeightedSoftAdapt,
        "normalized": library.NormalizedSoftAdapt,
    }
    for name, method in methods.items():
        for points in (2, 5, 6):
            weigh = method(beta=BETA).get_component_weights
            windows = [losses[i - points : i] for i in range(points, len(losses) + 1)]
            with contextlib.redirect_stdout(io.StringIO()):
                found = [weigh(*torch.tensor(window.T), verbose=False).numpy() for window in windows]
            yield f"{name}/{points}", np.stack(found)


def relobralo(losses, keeps):
    """The authors' rule; around it, what their training loop sets between the steps."""
    rule = importlib.import_module("update_rules").relobralo
    tasks = losses.shape[1]
    state = {f"{name}{i}": np.float64(1) for name in ("lam", "l", "l0") for i in range(tasks)} | {"T": TEMPERATURE}
    model = [types.SimpleNamespace(trainable_variables=[])]
    found = []
    for step, (row, keep) in enumerate(zip(losses, keeps, strict=True)):
        task = types.SimpleNamespace(calculate_loss=lambda *_, row=row, **__: (row[0], list(row[1:])))
        state |= {"alpha": (1.0, 0.0)[step] if step < 2 else ALPHA, "rho": float(keep)}
        *_, state = rule(model, task, None, None, state)
        if step == 1:
            state |= {f"l0{i}": value for i, value in enumerate(row)}
        found.append([state[f"lam{i}"] for i in range(tasks)])
    return np.array(found)


def numpy_as_tensorflow():
    module = types.ModuleType("tensorflow")
    softmax = lambda values: np.exp(values - np.max(values)) / np.exp(values - np.max(values)).sum()  # noqa: E731
    module.function = lambda function: function
    module.nn = types.SimpleNamespace(softmax=lambda values: softmax(np.array(values)))
    module.float32 = np.float64
    module.cast = lambda value, dtype: dtype(value)
    module.stop_gradient = lambda value: value
    module.reduce_sum = np.sum
    module.gradients = lambda *_: None
    return module


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--softadapt", type=pathlib.Path, required=True)
    parser.add_argument("--relobralo", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.relobralo / "src"))
    sys.modules["tensorflow"] = numpy_as_tensorflow()
    sys.modules["softadapt"] = types.ModuleType("softadapt")  # its own reads the version of the installed package
    sys.modules["softadapt"].__path__ = [str(arguments.softadapt / "softadapt")]
    rng = np.random.default_rng(0)
    stored = {}
    for tasks in (2, 3, 10):
        falls = np.exp(-np.linspace(0, 1, STEPS)[:, None] * rng.uniform(0, 3, tasks))
        losses = rng.uniform(0.3, 4, tasks) * falls * np.exp(0.2 * rng.normal(size=(STEPS, tasks)))
        keeps = rng.random(STEPS) < 0.6
        keeps[0] = True
        stored |= {f"{tasks}/losses": losses, f"{tasks}/keeps": keeps, f"{tasks}/relobralo": relobralo(losses, keeps)}
        stored |= {f"{tasks}/softadapt/{name}": weights for name, weights in softadapt(losses)}
    np.savez_compressed(FOLDER / "adaptive.npz", **stored)


if __name__ == "__main__":
    main()
