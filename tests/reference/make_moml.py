"""Writes moml.npz and forum.npz: how the authors' MOML and FORUM train a small network, in float64.

    python make_moml.py --forum=<checkout of github.com/Baijiong-Lin/FORUM, commit 318607c>

Needs PyTorch, cvxpy and what LibMTL imports; the tests read the stored files only. The loops are `Trainer.train_MOML`
and `Trainer.train_FORUM`, in which these parts are others: the data, the network (tanh(x A) B, whose i-th output is
task i's), the losses (mean squares), the optimizers (SGD at 0.1 for the network, Adam at 0.05 for alpha), and the
records. The third data loader of `train_MOML`, which the authors use for QM9, returns the first batch again, so that
the real step is computed on it.

For K = 2, 3 and 10 tasks:

- `K/x`, `K/second_x` [20, 6, 5] and `K/y`, `K/second_y` [20, 6, K]: the two batches of 20 steps.
- `K/shared` [5, 4], `K/heads` [4, K]: A and B at the start.
- `K/sum/weights` [20, K], `K/sum/shared`, `K/sum/heads`: the weights after each step, and A and B after the last, with
  LibMTL's EW as the method that combines the derivatives.
- `K/mgda/...`: the same with LibMTL's MGDA without normalization, and with the exact shortest vector in the convex hull
  in place of its approximation: the best of the vectors of all faces.

In forum.npz, with other batches, two epochs of 10 steps, and 5 inner steps at 0.1:

- `K/x`, ..., `K/heads`: as above.
- `K/RHO/weights` [20, K]: the softmax of alpha before each step; `K/RHO/shared`, `K/RHO/heads`: A and B after the last.
"""

import argparse
import itertools
import pathlib
import sys
import types

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent
STEPS, ROWS = 20, 6
RATE, VIRTUAL_RATE, META_RATE = 0.1, 0.3, 0.05


def shortest(rows):
    """The weights of the shortest vector in the convex hull of the rows."""
    gram, best = (rows @ rows.T).numpy(), None
    for size in range(1, len(gram) + 1):
        for face in map(list, itertools.combinations(range(len(gram)), size)):
            system = np.block([[gram[np.ix_(face, face)], np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
            part = np.linalg.lstsq(system, np.append(np.zeros(size), 1), rcond=None)[0][:-1]
            if part.min() < -1e-12 or abs(part.sum() - 1) > 1e-9:
                continue
            weights = np.zeros(len(gram))
            weights[face] = part
            length = weights @ gram @ weights
            if best is None or length < best[0] - 1e-15:
                best = length, weights
    return torch.tensor(best[1])


def network_class(method):
    class Network(method):
        def __init__(self, shared, heads):
            torch.nn.Module.__init__(self)
            self.task_num, self.device = heads.shape[1], "cpu"
            self.shared, self.heads = (torch.nn.Parameter(torch.tensor(array)) for array in (shared, heads))

        def forward(self, x):
            return (torch.tanh(x @ self.shared) @ self.heads).T

    return Network


class Silent:
    """In place of the record of metrics."""

    has_val, loss_item = False, 0

    def __getattr__(self, name):
        return lambda *values, **options: None


def trainer_class():
    from LibMTL.trainer import Trainer

    class Given(Trainer):
        def __init__(self, network, data, steps_per_epoch):
            torch.nn.Module.__init__(self)
            self.steps_per_epoch = steps_per_epoch
            self.model, self.data, self.meter = network, data, Silent()
            self.task_num = network.task_num
            self.task_name = [f"task_{i}" for i in range(self.task_num)]
            self.multi_input, self.device, self.scheduler, self.save_path = False, "cpu", None, None
            self.kwargs = {"weight_args": {"mgda_gn": "none"}}
            self.ul_alpha = Alpha(self.task_num)
            self.optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
            self.ul_alpha_optimizer = torch.optim.Adam(self.ul_alpha.parameters(), lr=META_RATE)
            self.calls, self.weights = 0, []

        def _prepare_dataloaders(self, prefixes):
            return prefixes, 2 * self.steps_per_epoch  # the authors' loop halves it

        def _process_data(self, prefixes):
            """The next batch: first and second in turn for ("", "second_"), the first for ("",)."""
            if len(prefixes) == 1:
                step, prefix = self.calls // 2 - 1, prefixes[0]
            else:
                step, prefix = self.calls // 2, prefixes[self.calls % 2]
                self.calls += 1
            x, y = (torch.tensor(self.data[f"{prefix}{name}"][step]) for name in "xy")
            return x, dict(zip(self.task_name, y.T, strict=True))

        def process_preds(self, preds, task_name=None):
            return dict(zip(self.task_name, preds, strict=True))

        def _compute_loss(self, preds, gts, task_name=None):
            return torch.stack([((preds[name] - gts[name]) ** 2).mean() for name in self.task_name])

        def test(self, *values, **options):
            return None

    return Given


class Alpha(torch.nn.Module):
    """The weights as in the authors' `UL_alpha`, a class within a function; records those of the real steps."""

    def __init__(self, tasks):
        super().__init__()
        self.loss_combine = torch.nn.Parameter(torch.full((tasks,), 1 / tasks))
        self.found = []

    def forward(self, losses):
        weights = torch.softmax(self.loss_combine, 0)
        self.found.append(weights.detach().numpy().copy())
        return (weights * losses).sum()


def make_data(rng, tasks):
    data = {key: rng.normal(size=(STEPS, ROWS, 5)) for key in ("x", "second_x")}
    data |= {"shared": rng.normal(size=(5, 4)), "heads": rng.normal(size=(4, tasks))}
    truth, size = rng.normal(size=(5, tasks)), rng.uniform(0.3, 2, tasks)
    for prefix in ("", "second_"):
        noise = rng.normal(size=(STEPS, ROWS, tasks))
        data[f"{prefix}y"] = (np.tanh(data[f"{prefix}x"] @ truth) + noise) * size
    return data


def import_trainer(checkout):
    """LibMTL's own imports need much more than the trainer and the weighting methods."""
    sys.modules["LibMTL"] = types.ModuleType("LibMTL")
    sys.modules["LibMTL"].__path__ = [str(checkout / "LibMTL")]
    torch.set_default_dtype(torch.float64)
    return trainer_class()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forum", type=pathlib.Path, required=True)
    trainer = import_trainer(parser.parse_args().forum)
    from LibMTL.weighting import EW, MGDA

    class ExactMGDA(MGDA):
        def _find_min_norm_element(self, grads):
            return shortest(grads)

    rng, stored = np.random.default_rng(0), {}
    for tasks in (2, 3, 10):
        data = make_data(rng, tasks)
        stored |= {f"{tasks}/{name}": values for name, values in data.items()}
        for name, method in (("sum", EW), ("mgda", ExactMGDA)):
            network = network_class(method)(data["shared"], data["heads"])
            loop = trainer(network, data, STEPS)
            loop.train_MOML(("", "second_"), None, 1, eta=VIRTUAL_RATE, org_train_dataloaders=("",))
            stored |= {
                f"{tasks}/{name}/weights": np.stack(loop.ul_alpha.found),
                f"{tasks}/{name}/shared": network.shared.detach().numpy(),
                f"{tasks}/{name}/heads": network.heads.detach().numpy(),
            }
    np.savez_compressed(FOLDER / "moml.npz", **stored)
    stored = {}
    for tasks in (2, 3, 10):
        data = make_data(rng, tasks)
        stored |= {f"{tasks}/{name}": values for name, values in data.items()}
        for rho in (0.2, 1.0):
            network = network_class(EW)(data["shared"], data["heads"])
            loop = trainer(network, data, STEPS // 2)
            loop.train_FORUM(("", "second_"), None, 2, rho=rho, eta=0.1, inner_step=5)
            stored |= {
                f"{tasks}/{rho}/weights": np.stack(loop.ul_alpha.found[::7]),  # seven evaluations in each step
                f"{tasks}/{rho}/shared": network.shared.detach().numpy(),
                f"{tasks}/{rho}/heads": network.heads.detach().numpy(),
            }
    np.savez_compressed(FOLDER / "forum.npz", **stored)


if __name__ == "__main__":
    main()
