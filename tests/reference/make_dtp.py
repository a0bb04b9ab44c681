"""Writes dtp.npz: how the code of Yun and Cho (ICCV 2023) weighs tasks by dynamic task prioritization, in float64.

    python make_dtp.py --achievement=<checkout of github.com/Samsung/Achievement-based-MTL, commit 4e6f39b>

Needs PyTorch; the tests read the stored file only. No code of the method's authors is public.

- `K/indicators` [24, K] for K = 2, 3 and 10 tasks: of 24 updates.
- `K/0.5/weights`, `K/1/weights`, `K/2/weights` [24, K]: the weights after each update, for these gamma.
"""

import argparse
import importlib
import pathlib
import sys
import types

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent
STEPS = 24


def weigh(method, indicators, gamma):
    """The weights after each update; the indicators go in as they are."""
    names = [f"task_{i}" for i in range(indicators.shape[1])]

    class Given(method):
        @staticmethod
        def _update_kpi(results):
            return results

    module = Given(names, focusing_factor=gamma)
    found = []
    for row in indicators:
        module.update_kpi(dict(zip(names, map(float, row), strict=True)))
        found.append([float(module.weight[name]) for name in names])
    return np.array(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--achievement", type=pathlib.Path, required=True)
    folder = parser.parse_args().achievement / "core" / "losses"
    # Packages of the same names that import nothing: theirs import what detection needs.
    for name in ("losses", "losses.multi_task", "losses.task_losses"):
        sys.modules[name] = package = types.ModuleType(name)
        package.__path__ = [str(folder.parent / name.replace(".", "/"))]
    for name in ("DetectionLoss", "SegmentationLoss", "DepthEstimationLoss", "SurfaceNormalLoss"):
        setattr(sys.modules["losses.task_losses"], name, None)
    method = importlib.import_module("losses.multi_task.accuracy_based").DTP
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    stored = {}
    for tasks in (2, 3, 10):
        growth = np.linspace(0.05, 0.8, STEPS)[:, None] * rng.uniform(0.2, 1.2, tasks)
        indicators = np.clip(growth + rng.normal(scale=0.03, size=growth.shape), 0.001, 0.999)
        stored[f"{tasks}/indicators"] = indicators
        stored |= {f"{tasks}/{gamma}/weights": weigh(method, indicators, gamma) for gamma in (0.5, 1, 2)}
    np.savez_compressed(FOLDER / "dtp.npz", **stored)


if __name__ == "__main__":
    main()
