"""Writes losses.npz: how LibMTL weighs given losses, in float64.

    python make_losses.py --libmtl=<checkout of github.com/median-research-group/LibMTL, commit 4336804>

Needs PyTorch and what LibMTL imports; the tests read the stored file only. A weight is the derivative of the total loss
by a task's loss.

- `K/losses` [24, K] for K = 2, 3 and 10 tasks: of 24 steps, 4 an epoch.
- `K/gls`, `K/stch` (mu = 0.7, one epoch of warm-up) [24, K]: the weights.
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

    module = Given()
    module.init_param()
    found = []
    for step, values in enumerate(losses):
        module.epoch = step // STEPS_PER_EPOCH
        given = torch.tensor(values, requires_grad=True)
        module.backward(given, **options)
        found.append(given.grad.numpy())
    return np.stack(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libmtl", type=pathlib.Path, required=True)
    sys.modules["LibMTL"] = types.ModuleType("LibMTL")  # its own imports the trainer, which needs much more
    sys.modules["LibMTL"].__path__ = [str(parser.parse_args().libmtl / "LibMTL")]
    from LibMTL.weighting import GLS, STCH

    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    stored = {}
    for tasks in (2, 3, 10):
        losses = rng.uniform(0.1, 3, (STEPS, tasks)) * np.linspace(1, 0.3, STEPS)[:, None]
        stored |= {f"{tasks}/losses": losses, f"{tasks}/gls": weigh(GLS, losses, {})}
        stored[f"{tasks}/stch"] = weigh(STCH, losses, {"STCH_mu": 0.7, "STCH_warmup_epoch": 1})
    np.savez_compressed(FOLDER / "losses.npz", **stored)


if __name__ == "__main__":
    main()
