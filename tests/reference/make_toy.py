"""Writes toy.npz: where the published code of CAGrad and of Nash-MTL goes on their two-task toy problem.

    python make_toy.py --cagrad=<checkout of github.com/Cranial-XIX/CAGrad, commit dc3d481> \
        --nash=<checkout of github.com/AvivNavon/nash-mtl, commit cce1840> [--only cagrad/mgda ...]

Needs PyTorch, cvxpy, ECOS and SciPy; the tests read the stored file only. What the code draws and logs with is left
out. It runs in float32, as it is; `--only` renews those names and keeps the others of the file.

- `cagrad/METHOD` [starts, samples, 2]: sgd (Adam on the mean loss), mgd, pcgrad, cagrad (c = 0.5) from the starts of
  `experiments/toy`.
- `nash/METHOD` [starts, samples, 2]: ls, mgda, pcgrad, cagrad (c = 0.4) and nashmtl from the starts of that paper, the
  first loss times 0.1.

Sample i is the point before step 100 i; the last one is the point before the last step. `STEPS` is how many steps were
taken: few where a step takes long (Nash-MTL's takes 65 ms).
"""

import argparse
import importlib.machinery
import pathlib
import sys
import types
import warnings

import numpy as np
import torch

FILE = pathlib.Path(__file__).parent / "toy.npz"
EVERY = 100
CAGRAD_STARTS = [(-8.5, 7.5), (-8.5, -5.0), (0.0, 0.0), (9.0, 9.0), (10.0, -8.0)]
STEPS = {
    "cagrad": {"sgd": 40_000, "mgd": 40_000, "pcgrad": 5_000, "cagrad": 5_000},
    "nash": {"ls": 35_000, "mgda": 5_000, "pcgrad": 5_000, "cagrad": 5_000, "nashmtl": 1_000},
}


class Absent(types.ModuleType):
    """In place of a module that draws or logs: has everything, does nothing."""

    def __init__(self, name):
        super().__init__(name)
        self.__path__ = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def tqdm(self, steps):
        return steps


def sampled(trajectory):
    return np.stack([*trajectory[:-1:EVERY], trajectory[-1]]).astype(np.float32)


def run_cagrad(name):
    import toy

    for start in CAGRAD_STARTS:
        point, trajectory = torch.tensor(start, requires_grad=True), []
        adam = torch.optim.Adam([point], lr=0.001)
        for _ in range(STEPS["cagrad"][name]):
            trajectory.append(point.detach().numpy().copy())
            _, gradients = toy.F(point, True)
            point.grad = toy.maps[name](gradients)
            adam.step()
        yield sampled(trajectory)


def run_nash(name):
    from experiments.utils import common_parser

    from experiments.toy import trainer

    trainer.args = argparse.ArgumentParser(parents=[common_parser]).parse_args([])
    found = trainer.main(name, torch.device("cpu"), STEPS["nash"][name], 0.1)
    yield from (sampled(run["traj"]) for run in found.values())


def main():
    names = [f"{source}/{method}" for source, methods in STEPS.items() for method in methods]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cagrad", required=True)
    parser.add_argument("--nash", required=True)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--file", type=pathlib.Path, default=FILE)
    arguments = parser.parse_args()
    for name in ("matplotlib", "matplotlib.pyplot", "matplotlib.colors", "mpl_toolkits", "mpl_toolkits.mplot3d"):
        sys.modules[name] = Absent(name)
    for name in ("seaborn", "tqdm", "wandb"):
        sys.modules[name] = Absent(name)
    sys.path += [arguments.cagrad, arguments.nash]
    warnings.filterwarnings("ignore")  # of cvxpy, where ECOS gives up
    torch.set_num_threads(1)
    for name in arguments.only:
        source, method = name.split("/")
        found = np.stack(list({"cagrad": run_cagrad, "nash": run_nash}[source](method)))
        stored = dict(np.load(arguments.file)) if arguments.file.exists() else {}
        np.savez_compressed(arguments.file, **stored | {name: found})
        sys.stdout.write(f"{name}: {found[:, -1].tolist()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
