"""Writes losses.npz: how LibMTL, TorchJD and FAMO's authors weigh given losses, in float64.

    python make_losses.py --libmtl=<checkout of github.com/median-research-group/LibMTL, commit 4336804> \
        --torchjd=<checkout of github.com/SimplexLab/TorchJD, commit 862baed> \
        --famo=<checkout of github.com/Cranial-XIX/FAMO, commit 0a6ad06>

Needs PyTorch and what LibMTL imports; the tests read the stored file only. A weight is the derivative of the total loss
by a task's loss.

- `K/losses` [24, K] for K = 2, 3 and 10 tasks: of 24 steps, 4 an epoch.
- `K/gls`, `K/stch` (mu = 0.7, one epoch of warm-up), `K/dwa`, `K/uw` (s learned by Adam at 0.05) [24, K]: LibMTL's
  weights.
- `K/famo/scale_invariant`, `K/famo/dwa` (a window of 5 steps), `K/famo/uw` (s learned by Adam at 0.025) [24, K]: those
  of the methods that FAMO's authors compare with, which are Nash-MTL's.
- `K/imtl_l` [24, K]: TorchJD's weights, s learned by Adam at 0.05.
- `K/after` [24, K]: losses after each step; `K/famo` [24, K]: the weights of FAMO's authors with these, decay 0.01.
"""

import argparse
import pathlib
import sys
import types

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent
STEPS, STEPS_PER_EPOCH = 24, 4


def weigh(method, losses, options):
    """The weights at each step."""

    class Given(method):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.task_num, self.rep_grad, self.device = losses.shape[1], False, "cpu"
            self.train_loss_buffer = losses.reshape(-1, STEPS_PER_EPOCH, self.task_num).mean(1).T

    module = Given()
    module.init_param()
    module.double()
    learned = list(module.parameters())
    adam = torch.optim.Adam(learned, lr=0.05) if learned else None
    found = []
    for step, values in enumerate(losses):
        module.epoch = step // STEPS_PER_EPOCH
        given = torch.tensor(values, requires_grad=True)
        module.backward(given, **options)
        if adam is not None:
            adam.step()
            adam.zero_grad()
        found.append(given.grad.numpy())
    return np.stack(found)


def weigh_compared(method, losses):
    """With the methods that FAMO is compared with."""
    learned = method.parameters()
    adam = torch.optim.Adam(learned, lr=0.025) if learned else None
    found = []
    for values in losses:
        given = torch.tensor(values, requires_grad=True)
        method.get_weighted_loss(given)[0].backward()
        if adam is not None:
            adam.step()
            adam.zero_grad()
        found.append(given.grad.numpy())
    return np.stack(found)


def weigh_imtl_l(losses):
    from torchjd.scalarization import IMTLL

    method, found = IMTLL(losses.shape[1]), []
    adam = torch.optim.Adam(method.parameters(), lr=0.05)
    for values in losses:
        given = torch.tensor(values, requires_grad=True)
        adam.zero_grad()
        method(given).backward()
        adam.step()
        found.append(given.grad.numpy())
    return np.stack(found)


def weigh_famo(losses, after):
    from famo import FAMO

    method, found = FAMO(losses.shape[1], "cpu", gamma=0.01), []
    for values, later in zip(losses, after, strict=True):
        given = torch.tensor(values, requires_grad=True)
        method.backward(given)
        method.update(torch.tensor(later))
        found.append(given.grad.numpy())
    return np.stack(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("libmtl", "torchjd", "famo"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    sys.path[:0] = [str(arguments.torchjd / "src"), str(arguments.famo)]
    sys.modules["LibMTL"] = types.ModuleType("LibMTL")  # its own imports the trainer, which needs much more
    sys.modules["LibMTL"].__path__ = [str(arguments.libmtl / "LibMTL")]
    from LibMTL.weighting import DWA, GLS, STCH, UW
    from methods import weight_methods as compared

    torch.set_default_dtype(torch.float64)
    rng, more = np.random.default_rng(0), np.random.default_rng(1)
    stored = {}
    for tasks in (2, 3, 10):
        losses = rng.uniform(0.1, 3, (STEPS, tasks)) * np.linspace(1, 0.3, STEPS)[:, None]
        stored |= {f"{tasks}/losses": losses, f"{tasks}/gls": weigh(GLS, losses, {})}
        stored[f"{tasks}/stch"] = weigh(STCH, losses, {"STCH_mu": 0.7, "STCH_warmup_epoch": 1})
        stored[f"{tasks}/dwa"] = weigh(DWA, losses, {"T": 2.0})
        stored[f"{tasks}/uw"] = weigh(UW, losses, {})
        for name, method in (
            ("scale_invariant", compared.ScaleInvariantLinearScalarization(tasks, "cpu")),
            ("dwa", compared.DynamicWeightAverage(tasks, "cpu", iteration_window=5)),
            ("uw", compared.Uncertainty(tasks, "cpu")),
        ):
            stored[f"{tasks}/famo/{name}"] = weigh_compared(method, losses)
        after = losses * more.uniform(0.8, 1.1, losses.shape)
        stored |= {f"{tasks}/after": after, f"{tasks}/imtl_l": weigh_imtl_l(losses)}
        stored[f"{tasks}/famo"] = weigh_famo(losses, after)
    np.savez_compressed(FOLDER / "losses.npz", **stored)


if __name__ == "__main__":
    main()
