"""Writes gradients.npz: what TorchJD and LibMTL make of given task gradients, in float64.

    python make_gradients.py --torchjd=<checkout of github.com/SimplexLab/TorchJD, commit 862baed> \
        --libmtl=<checkout of github.com/median-research-group/LibMTL, commit 4336804> \
        --config=<checkout of github.com/tum-pbs/ConFIG, commit 9486243>

Needs PyTorch, cvxpy, ECOS, Clarabel, quadprog, qpsolvers and SciPy; the tests read the stored file only.

For K = 2, 3 and 10 tasks, 20 sets of gradients of 12 numbers each: 5 random ones, 5 that conflict, 5 of lengths that
differ up to a thousandfold, 5 with a common direction.

- `K/gradients` [20, K, 12], `K/losses` [20, K], and `K/orders` [20, K, K] int: row i is the order in which PCGrad and
  GradVac let task i visit the tasks (in place of their random one).
- `K/torchjd/METHOD` [20, 12]: the combined gradient. METHOD is mgda, imtl_g, aligned_mtl (and aligned_mtl/median,
  aligned_mtl/rmse), upgrad and dualproj (without the 1e-4 that they add to the Gram matrix), cagrad (c = 0.4), nash_mtl
  (each set for itself), fairgrad (alpha = 2), pcgrad, gradvac (one sequence of 20 steps, beta = 0.5).
- `K/torchjd/METHOD`, more: config; sdmgrad and excess_mtl (step size 0.1, five steps of warm-up), one sequence of 20
  steps each; graddrop (leak 0.2) with the random numbers `K/uniform` [20, 12].
- `K/libmtl/METHOD` [20, 12]: mgda/none, mgda/l2, mgda/loss, mgda/loss+; cagrad (c = 0.4, rescale = 1), imtl_g,
  aligned_mtl. And as one sequence of 20 steps, 4 an epoch: moco (rho = 0.1), db_mtl (beta_sigma = 0.5), sdmgrad, and
  the weights [20, K] of excess_mtl (step size 0.1) and gradnorm (its logits learned by Adam at 0.05).
- `K/config/config` [20, 12]: ConFIG by its authors' code.
"""

import argparse
import pathlib
import sys
import types
import warnings

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent
SETS = 20
SIZE = 12
STEPS_PER_EPOCH = 4


def make_gradients(rng, tasks):
    gradients = rng.normal(size=(SETS, tasks, SIZE))
    gradients[5:10] -= 1.1 * gradients[5:10].mean(1, keepdims=True)
    gradients[10:15] *= 10 ** rng.uniform(-1.5, 1.5, (5, tasks, 1))
    gradients[15:] += 2 * rng.normal(size=(5, 1, SIZE))
    return gradients


class GivenOrders:
    """In place of torch.randperm: the orders of a set, task after task."""

    def __init__(self, orders, leave_out):
        self.orders, self.leave_out, self.task = orders, leave_out, 0

    def __call__(self, count):
        order, task = self.orders[self.task], self.task
        self.task += 1
        if not self.leave_out:
            return torch.tensor(order)
        others = [j for j in range(len(order)) if j != task]
        return torch.tensor([others.index(j) for j in order if j != task])


def torchjd(gradients, orders, uniform):
    import torchjd.aggregation as library
    from torchjd.linalg import QuadprogProjector

    exact = {"projector": QuadprogProjector(norm_eps=1e-10, reg_eps=1e-10)}  # otherwise 1e-4 moves the answer
    tasks = gradients.shape[1]
    plain = {
        "mgda": lambda: library.MGDA(epsilon=1e-12, max_iters=200_000),
        "imtl_g": library.IMTLG,
        "aligned_mtl": library.AlignedMTL,
        "aligned_mtl/median": lambda: library.AlignedMTL(scale_mode="median"),
        "aligned_mtl/rmse": lambda: library.AlignedMTL(scale_mode="rmse"),
        "upgrad": lambda: library.UPGrad(**exact),
        "dualproj": lambda: library.DualProj(**exact),
        "cagrad": lambda: library.CAGrad(c=0.4),
        "nash_mtl": lambda: library.NashMTL(tasks, max_norm=0.0, optim_niter=200),
        "fairgrad": lambda: library.FairGrad(2.0),
        "config": library.ConFIG,
    }
    for name, make in plain.items():
        yield name, np.stack([make()(torch.tensor(rows)).numpy() for rows in gradients])
    sdmgrad, excess = library.SDMGradWeighting(), library.ExcessMTL(robust_step_size=0.1, n_warmup_steps=5)
    yield (
        "sdmgrad",
        np.stack([(sdmgrad(torch.tensor(rows @ rows.T)) @ torch.tensor(rows)).numpy() for rows in gradients]),
    )
    yield "excess_mtl", np.stack([excess(torch.tensor(rows)).numpy() for rows in gradients])
    random_numbers, dropped = torch.rand, []
    for rows, numbers in zip(gradients, uniform, strict=True):
        torch.rand = lambda *size, numbers=numbers, **options: torch.tensor(numbers)
        dropped.append(library.GradDrop(leak=torch.full((len(rows),), 0.2))(torch.tensor(rows)).numpy())
    torch.rand = random_numbers
    yield "graddrop", np.stack(dropped)
    random_order = torch.randperm
    for name, method, leave_out in (("pcgrad", library.PCGrad(), False), ("gradvac", library.GradVac(), True)):
        found = []
        for rows, order in zip(gradients, orders, strict=True):
            torch.randperm = GivenOrders(order, leave_out)
            found.append(method(torch.tensor(rows)).numpy())
        torch.randperm = random_order
        yield name, np.stack(found)


def libmtl(gradients, losses):
    from LibMTL.weighting import IMTL, MGDA, Aligned_MTL, CAGrad

    torch.symeig = lambda matrix, eigenvectors: torch.linalg.eigh(matrix)  # an older name, which PyTorch took away
    methods = {f"mgda/{kind}": (MGDA, {"mgda_gn": kind}) for kind in ("none", "l2", "loss", "loss+")}
    methods |= {
        "cagrad": (CAGrad, {"calpha": 0.4, "rescale": 1}),
        "imtl_g": (IMTL, {}),
        "aligned_mtl": (Aligned_MTL, {}),
    }
    for name, (method, options) in methods.items():
        found = []
        for rows, values in zip(gradients, losses, strict=True):
            found.append(given_gradients(method, torch.tensor(rows))(torch.tensor(values), options))
        yield name, np.stack(found)


def given_gradients(method, rows):
    """LibMTL's method, with given gradients in place of those of a network."""

    class Given(method):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.task_num, self.rep_grad, self.device = len(rows), False, "cpu"
            self.train_loss_buffer = np.zeros((len(rows), 1))
            self.epoch = 0

        def _compute_grad_dim(self):
            pass

        def _compute_grad(self, losses, mode, rep_grad=False):
            return rows.clone()

        def _reset_grad(self, new_grads):
            self.found = new_grads.detach().numpy()

    def run(losses, options):
        losses.requires_grad_()
        module = Given()
        module.init_param()
        module.double()
        module.backward(losses, **options)
        return module.found

    return run


def libmtl_sequences(gradients, losses):
    """Methods with a state: one module for all steps."""
    from LibMTL.weighting import DB_MTL, ExcessMTL, GradNorm, MoCo, SDMGrad

    vars(np)["alltrue"] = np.all  # an older name, which NumPy took away
    methods = {
        "moco": (
            MoCo,
            {"MoCo_beta": 0.5, "MoCo_beta_sigma": 0.5, "MoCo_gamma": 0.1, "MoCo_gamma_sigma": 0.5, "MoCo_rho": 0.1},
        ),
        "db_mtl": (DB_MTL, {"DB_beta": 0.9, "DB_beta_sigma": 0.5}),
        "sdmgrad": (SDMGrad, {"SDMGrad_lamda": 0.3, "SDMGrad_niter": 20}),
        "excess_mtl": (ExcessMTL, {"robust_step_size": 0.1}),
        "gradnorm": (GradNorm, {"alpha": 1.5}),
    }
    for name, (method, options) in methods.items():
        yield name, sequence(method, gradients, losses, options)


def sequence(method, gradients, losses, options):
    class Given(method):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.task_num, self.rep_grad, self.device, self.grad_dim = losses.shape[1], False, "cpu", SIZE
            self.train_loss_buffer = losses[:STEPS_PER_EPOCH].mean(0)[:, None]
            self.encoder = torch.nn.Linear(1, 1)

        def _compute_grad_dim(self):
            pass

        def _compute_grad(self, values, mode, rep_grad=False):
            # The gradients of what the method makes of the losses, such as their logarithms.
            factors = torch.autograd.grad(sum(values), self.given, retain_graph=True)[0]
            return self.rows.clone() * factors[:, None]

        def _reset_grad(self, new_grads):
            self.found = new_grads.detach().numpy()

    module = Given()
    module.init_param()
    learned = [value for name, value in module.named_parameters() if name == "loss_scale"]
    adam = torch.optim.Adam(learned, lr=0.05) if learned else None
    found = []
    for step, (rows, values) in enumerate(zip(gradients, losses, strict=True)):
        module.epoch = step // STEPS_PER_EPOCH
        module.rows, module.given = torch.tensor(rows), torch.tensor(values, requires_grad=True)
        if method.__name__ == "SDMGrad":  # three batches; the same gradients of each
            weights = module.backward([module.given] * 3, **options)
        else:
            weights = module.backward(1.0 * module.given, **options)
        if adam is not None and learned[0].grad is not None:
            adam.step()
            adam.zero_grad()
        found.append(np.array(weights) if method.__name__ in ("ExcessMTL", "GradNorm") else module.found)
    return np.stack(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchjd", type=pathlib.Path, required=True)
    parser.add_argument("--libmtl", type=pathlib.Path, required=True)
    parser.add_argument("--config", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    sys.path[:0] = [str(arguments.torchjd / "src"), str(arguments.config)]
    sys.modules["LibMTL"] = types.ModuleType("LibMTL")  # its own imports the trainer, which needs much more
    sys.modules["LibMTL"].__path__ = [str(arguments.libmtl / "LibMTL")]
    warnings.simplefilter("ignore")  # cvxpy's
    torch.set_default_dtype(torch.float64)
    from conflictfree.grad_operator import ConFIG_update

    rng, more = np.random.default_rng(0), np.random.default_rng(1)
    stored = {}
    for tasks in (2, 3, 10):
        gradients, losses = make_gradients(rng, tasks), rng.uniform(0.1, 3, (SETS, tasks))
        orders = np.stack([[rng.permutation(tasks) for _ in range(tasks)] for _ in range(SETS)])
        uniform = more.uniform(size=(SETS, SIZE))
        stored |= {f"{tasks}/gradients": gradients, f"{tasks}/losses": losses, f"{tasks}/orders": orders}
        stored |= {f"{tasks}/uniform": uniform}
        stored |= {f"{tasks}/torchjd/{name}": found for name, found in torchjd(gradients, orders, uniform)}
        stored |= {f"{tasks}/libmtl/{name}": found for name, found in libmtl(gradients, losses)}
        stored |= {f"{tasks}/libmtl/{name}": found for name, found in libmtl_sequences(gradients, losses)}
        stored[f"{tasks}/config/config"] = np.stack([ConFIG_update(torch.tensor(rows)).numpy() for rows in gradients])
    np.savez_compressed(FOLDER / "gradients.npz", **stored)


if __name__ == "__main__":
    main()
