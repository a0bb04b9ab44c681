"""Writes torchjd.npz: what TorchJD, LibMTL, Flower and COSMOS' authors make of given losses and gradients, in float64.

    python make_torchjd.py --torchjd=<checkout of github.com/SimplexLab/TorchJD, commit 862baed> \
        --libmtl=<checkout of github.com/median-research-group/LibMTL, commit 4336804> \
        --cosmos=<checkout of github.com/ruchtem/cosmos, commit c198830> --flower=<folder of the package flwr, 1.42.0>

Needs PyTorch and quadprog; the tests read the stored file only.

For K = 2, 3 and 10 tasks, sequences of 20 steps, with the gradients of make_gradients.py:

- `K/losses` [20, K], `K/gradients` and `K/second` [20, K, 12]: of two batches; `K/preference` and `K/ideal` [K].
- `K/torchjd/pbi` (theta = 5), `K/torchjd/cosmos` and `K/authors/cosmos` (lambda = 2) [20, K]: the derivatives of the
  total loss.
- `K/torchjd/trimmed_mean/N` [20, 12] for each N that is possible: the combined gradient.
- `K/torchjd/krum/F_M` and `K/flower/krum/F_M` [20, 12] for F outliers and M selected gradients: the combined gradient.
- `K/torchjd/cr_mogm/mgda` and `K/torchjd/cr_mogm/upgrad` [20, K]: averaged weights, alpha = 0.9. Those of MGDA are
  solved by quadprog; those of UPGrad are without the 1e-4 that TorchJD adds to the Gram matrix.
- `K/torchjd/modo` and `K/libmtl/modo` [20, 12] (gamma = 0.05, rho = 0.1): the update from the mean gradient of the two
  batches. LibMTL receives this mean as its third batch.
"""

import argparse
import importlib
import pathlib
import sys
import types

import numpy as np
import torch
from make_gradients import SETS, make_gradients

FOLDER = pathlib.Path(__file__).parent
KRUM = {2: (), 3: ((0, 2),), 10: ((0, 1), (2, 3), (3, 1))}
MODO = {"MoDo_gamma": 0.05, "MoDo_rho": 0.1}


def stub(name, **values):
    """A module in place of one that needs much more."""
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(values)


def derivatives(total, losses):
    """The derivative of a total loss at each step."""
    found = []
    for values in losses:
        given = torch.tensor(values, requires_grad=True)
        total(given).backward()
        found.append(given.grad.numpy())
    return np.stack(found)


def shortest(gram):
    """The weights of the shortest convex combination."""
    import quadprog

    count = len(gram)
    constraints = np.concatenate([np.ones((count, 1)), np.eye(count)], axis=1)
    bounds = np.concatenate([[1.0], np.zeros(count)])
    # Positive definite, although the Gram matrix may not be.
    gram = gram.numpy() / np.diag(gram).max() + 1e-12 * np.eye(count)
    return torch.tensor(quadprog.solve_qp(gram, np.zeros(count), constraints, bounds, meq=1)[0])


def torchjd(losses, gradients, second, preference, ideal):
    import torchjd.aggregation as library
    from torchjd.aggregation import CRMOGMWeighting, MoDoWeighting, UPGradWeighting
    from torchjd.linalg import QuadprogProjector
    from torchjd.scalarization import COSMOS, PBI

    tasks, preference = losses.shape[1], torch.tensor(preference)
    yield "pbi", derivatives(PBI(5.0, preference, torch.tensor(ideal)), losses)
    yield "cosmos", derivatives(COSMOS(2.0, preference), losses)
    aggregators = {f"trimmed_mean/{n}": library.TrimmedMean(n) for n in range((tasks + 1) // 2)}
    aggregators |= {f"krum/{f}_{m}": library.Krum(f, m) for f, m in KRUM[tasks]}
    for name, aggregator in aggregators.items():
        yield name, np.stack([aggregator(torch.tensor(rows)).numpy() for rows in gradients])
    exact = UPGradWeighting(projector=QuadprogProjector(norm_eps=1e-10, reg_eps=1e-10))
    for name, inner in (("mgda", shortest), ("upgrad", exact)):
        smooth = CRMOGMWeighting(inner, alpha=0.9)
        yield f"cr_mogm/{name}", np.stack([smooth(torch.tensor(rows @ rows.T)).numpy() for rows in gradients])
    modo = MoDoWeighting(*MODO.values())
    yield (
        "modo",
        np.stack([modo(torch.tensor(g @ s.T)).numpy() @ (g + s) / 2 for g, s in zip(gradients, second, strict=True)]),
    )


def libmtl_modo(gradients, second):
    from LibMTL.weighting.MoDo import MoDo

    class Given(MoDo):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.task_num, self.rep_grad, self.device, self.decoders = gradients.shape[1], False, "cpu", {}

        def _get_grads(self, batch, mode):
            return torch.tensor(batch)

        def _reset_grad(self, new_grads):
            self.found = new_grads.numpy()

    module, found = Given(), []
    module.init_param()
    for batches in zip(gradients, second, (gradients + second) / 2, strict=True):
        module.backward(batches, **MODO)
        found.append(module.found)
    return np.stack(found)


def flower_krum(gradients, outliers, selected):
    from flwr.server.strategy.aggregate import aggregate_krum

    return np.stack([aggregate_krum([([row], 1) for row in rows], outliers, selected)[0] for rows in gradients])


def authors_cosmos(losses, preference):
    """One step per row of losses, with the given preference in place of a random one."""
    method = importlib.import_module("methods.cosmos.cosmos").COSMOSMethod
    cosmos = method.__new__(method)
    cosmos.alpha, cosmos.K, cosmos.lamda = 1.0, len(preference), 2.0
    np.random.dirichlet = lambda alpha, size: preference[None]
    torch.Tensor.cuda = lambda tensor: tensor
    found = []
    for values in losses:
        given = torch.tensor(values, requires_grad=True)
        cosmos.model = torch.nn.Identity()
        cosmos.objectives = [lambda i=i, given=given, **batch: given[i] for i in range(len(preference))]
        cosmos.step({})
        found.append(given.grad.numpy())
    return np.stack(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("torchjd", "libmtl", "cosmos", "flower"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    sys.path[:0] = [str(arguments.torchjd / "src"), str(arguments.cosmos / "multi_objective")]
    # The packages' own imports need much more, such as the trainer or the network.
    stub("LibMTL", __path__=[str(arguments.libmtl / "LibMTL")])
    stub("LibMTL.weighting", __path__=[str(arguments.libmtl / "LibMTL" / "weighting")])
    for name in ("flwr", "flwr.server", "flwr.server.strategy"):
        stub(name, __path__=[str(arguments.flower.parent.joinpath(*name.split(".")))])
    stub("flwr.common", **dict.fromkeys(("FitRes", "NDArray", "NDArrays", "parameters_to_ndarrays"), object))
    stub("flwr.server.client_proxy", ClientProxy=object)
    stub("utils", **dict.fromkeys(("num_parameters", "model_from_dataset", "circle_points")))
    stub("methods", __path__=[str(arguments.cosmos / "multi_objective" / "methods")])
    torch.set_default_dtype(torch.float64)

    rng, stored = np.random.default_rng(5), {}
    for tasks in (2, 3, 10):
        gradients, losses = make_gradients(rng, tasks), rng.uniform(0.1, 3, (SETS, tasks))
        second = gradients + 0.3 * rng.normal(size=gradients.shape)
        preference = rng.dirichlet(np.ones(tasks)).astype(np.float32).astype(np.float64)
        ideal = rng.uniform(0, 0.1, tasks)
        stored |= {f"{tasks}/losses": losses, f"{tasks}/gradients": gradients, f"{tasks}/second": second}
        stored |= {f"{tasks}/preference": preference, f"{tasks}/ideal": ideal}
        for name, found in torchjd(losses, gradients, second, preference, ideal):
            stored[f"{tasks}/torchjd/{name}"] = found
        stored[f"{tasks}/libmtl/modo"] = libmtl_modo(gradients, second)
        for f, m in KRUM[tasks]:
            stored[f"{tasks}/flower/krum/{f}_{m}"] = flower_krum(gradients, f, m)
        dirichlet = np.random.dirichlet
        stored[f"{tasks}/authors/cosmos"] = authors_cosmos(losses, preference)
        np.random.dirichlet = dirichlet
    np.savez_compressed(FOLDER / "torchjd.npz", **stored)


if __name__ == "__main__":
    main()
