"""Writes features.npz: what LibMTL and the authors of Aligned-MTL make of gradients with respect to shared features.

    python make_features.py --libmtl=<checkout of github.com/median-research-group/LibMTL, commit 4336804> \
        --samsung=<checkout of github.com/SamsungLabs/MTL, commit 3f577f1>

Needs PyTorch, cvxpy, ECOS and SciPy; float64. The tests read the stored file only.

The network: features z = tanh(x @ shared), the prediction of task k is z @ heads[k], its loss the mean square error
times a scale of its own. For K = 2, 3 and 10 tasks and batches of B = 1 and 8 rows, 20 sets; the heads of a set are
made as the gradients in make_gradients.py (random, in conflict, of different lengths, with a common direction).

- `K/B/x` [20, B, 2], `K/B/y` [20, B, K], `K/B/shared` [20, 2, 12], `K/B/heads` [20, K, 12], `K/B/scale` [20, K].
- `K/B/libmtl/METHOD/weights` [20, K], with `rep_grad=True`. METHOD is mgda/none, mgda/l2, mgda/loss, mgda/loss+,
  imtl_g, aligned_mtl. LibMTL sums the gradients with respect to features over the batch before it compares tasks.
- `K/B/libmtl/METHOD/gradient` [20, 2, 12], that of `shared`, for imtl_g and aligned_mtl.
- `K/B/libmtl/heads` [20, K, 12]: the heads' gradient, the same for all methods: each task's own, not weighted.
- `K/B/samsung/METHOD/gradient` [20, 2, 12], from the authors of Aligned-MTL, who compare the gradients of all rows.
  METHOD is mgda, aligned_mtl, and aligned_mtl/median and aligned_mtl/rmse.
"""

import argparse
import pathlib
import sys
import types
import warnings

import numpy as np
import torch
from make_gradients import FOLDER, SETS, SIZE, make_gradients

INPUTS = 2


def make_problems(rng, tasks, rows):
    return {
        "x": rng.normal(size=(SETS, rows, INPUTS)),
        "y": rng.normal(size=(SETS, rows, tasks)),
        "shared": rng.normal(size=(SETS, INPUTS, SIZE)) / 2,
        "heads": make_gradients(rng, tasks),
        "scale": rng.uniform(0.1, 3, (SETS, tasks)),
    }


class Encoder(torch.nn.Module):
    def __init__(self, shared):
        super().__init__()
        self.shared = torch.nn.Parameter(torch.tensor(shared))

    def forward(self, x):
        return torch.tanh(x @ self.shared)


class Decoder(torch.nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = torch.nn.Parameter(torch.tensor(head))

    def forward(self, z):
        return z @ self.head


def criterion(scale):
    return lambda prediction, target: scale * ((prediction - target) ** 2).mean()


def parts(problem):
    """Encoder, decoders, losses and targets of a set."""
    names = [str(i) for i in range(len(problem["heads"]))]
    decoders = {name: Decoder(head) for name, head in zip(names, problem["heads"], strict=True)}
    criteria = {name: criterion(scale) for name, scale in zip(names, problem["scale"], strict=True)}
    targets = {name: torch.tensor(problem["y"][:, i]) for i, name in enumerate(names)}
    return Encoder(problem["shared"]), torch.nn.ModuleDict(decoders), criteria, targets


def libmtl(problem):
    from LibMTL.architecture.abstract_arch import AbsArchitecture
    from LibMTL.weighting.Aligned_MTL import Aligned_MTL
    from LibMTL.weighting.IMTL import IMTL
    from LibMTL.weighting.MGDA import MGDA

    torch.symeig = lambda matrix, eigenvectors: torch.linalg.eigh(matrix)  # an older name, which PyTorch took away
    methods = {f"mgda/{kind}": (MGDA, {"mgda_gn": kind}) for kind in ("none", "l2", "loss", "loss+")}
    methods |= {"imtl_g": (IMTL, {}), "aligned_mtl": (Aligned_MTL, {})}
    for name, (method, options) in methods.items():
        encoder, decoders, criteria, targets = parts(problem)

        class Model(method, AbsArchitecture):
            def __init__(self, encoder, decoders):
                AbsArchitecture.__init__(self, list(decoders), None, decoders, True, False, "cpu")
                self.encoder = encoder
                self.init_param()

        model = Model(encoder, decoders)
        predictions = model(torch.tensor(problem["x"]))
        losses = torch.stack([criteria[task](predictions[task], targets[task]) for task in criteria])
        yield f"{name}/weights", model.backward(losses, **options)
        if not name.startswith("mgda"):
            yield f"{name}/gradient", encoder.shared.grad.numpy()
        heads = np.stack([decoder.head.grad.numpy() for decoder in decoders.values()])
    yield "heads", heads


def samsung(problem):
    from optim.aligned.balancer import AlignedMTLUBBalancer
    from optim.mgda.balancer import MGDAUBBalancer

    methods = {"mgda": MGDAUBBalancer(), "aligned_mtl": AlignedMTLUBBalancer()}
    methods |= {f"aligned_mtl/{mode}": AlignedMTLUBBalancer(scale_mode=mode) for mode in ("median", "rmse")}
    for name, method in methods.items():
        encoder, decoders, criteria, targets = parts(problem)
        model = torch.nn.Module()
        model.encoder, model.decoders = encoder, decoders
        method.step_with_model(torch.tensor(problem["x"]), targets, model, criteria)
        yield f"{name}/gradient", encoder.shared.grad.numpy()


def without_init(package, folder):
    """The package, but its own __init__, which imports much more."""
    sys.modules[package] = types.ModuleType(package)
    sys.modules[package].__path__ = [str(folder)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libmtl", type=pathlib.Path, required=True)
    parser.add_argument("--samsung", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    for package in ("", ".architecture", ".weighting"):
        without_init(f"LibMTL{package}", arguments.libmtl / "LibMTL" / package[1:])
    without_init("optim", arguments.samsung / "code" / "optim")
    warnings.simplefilter("ignore")  # what PyTorch says of older code
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    stored = {}
    for tasks in (2, 3, 10):
        for rows in (1, 8):
            problems = make_problems(rng, tasks, rows)
            stored |= {f"{tasks}/{rows}/{key}": value for key, value in problems.items()}
            for source, run in (("libmtl", libmtl), ("samsung", samsung)):
                found = [dict(run({key: value[i] for key, value in problems.items()})) for i in range(SETS)]
                stored |= {f"{tasks}/{rows}/{source}/{key}": np.stack([one[key] for one in found]) for key in found[0]}
    np.savez_compressed(FOLDER / "features.npz", **stored)


if __name__ == "__main__":
    main()
