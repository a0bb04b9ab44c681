"""Runs steps of TorchJD and LibMTL on command; `run.py` starts it.

It needs PyTorch, and what the solvers of both import: cvxpy, clarabel, ECOS, SciPy, qpsolvers, quadprog. The commands
are those of `ours.py`. Variants are `autojac`, `autojac one by one` and `autogram` of TorchJD, `backward` of LibMTL,
and each followed by ` compiled`.
"""

import argparse
import json
import pathlib
import platform
import sys
import time
import types
import warnings

import numpy as np
import torch
import torch._functorch.config
import torch._inductor.config
from problem import CAGRAD_C, LEARNING_RATE, make_problem, measure, orders, strides

LIBMTL = {
    "equal": "EW",
    "mgda": "MGDA",
    "pcgrad": "PCGrad",
    "cagrad": "CAGrad",
    "imtl_g": "IMTL",
    "nash_mtl": "Nash_MTL",
    "aligned_mtl": "Aligned_MTL",
    "upgrad": "UPGrad",
}
# The defaults of LibMTL/config.py, but for CAGrad's rescaling, which TorchJD does not have.
LIBMTL_OPTIONS = {
    "mgda": {"mgda_gn": "none"},
    "cagrad": {"calpha": CAGRAD_C, "rescale": 0},
    "nash_mtl": {"update_weights_every": 1, "optim_niter": 20, "max_norm": 1.0},
    "upgrad": {"UPGrad_norm_eps": 1e-4, "UPGrad_reg_eps": 1e-4},
}


class Network(torch.nn.Module):
    """The network, with the names that LibMTL's methods use; all parameters of the encoder are shared."""

    def __init__(self, problem, compiled):
        super().__init__()
        self.problem = problem
        layers = []
        for i, (weights, _) in enumerate(problem.trunk):
            if problem.network == "cnn":
                layer = torch.nn.Conv2d(weights.shape[1], len(weights), 3, strides(problem)[i], padding=1)
            else:
                layer = torch.nn.Linear(weights.shape[1], len(weights))
            layers += [layer, torch.nn.ReLU()]
        if problem.network == "cnn":
            layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
        self.encoder = torch.nn.Sequential(*layers)
        heads = {f"task_{i}": torch.nn.Linear(weights.shape[1], 1) for i, (weights, _) in enumerate(problem.heads)}
        self.decoders = torch.nn.ModuleDict(heads)
        self.trunk = torch.compile(self.encoder) if compiled else self.encoder
        self.x, self.y = torch.tensor(problem.x), torch.tensor(problem.y)

    def restart(self):
        """Sets the initial weights, and removes the gradients."""
        for module, pairs in ((self.encoder, self.problem.trunk), (self.decoders, self.problem.heads)):
            arrays = [array for pair in pairs for array in pair]
            with torch.no_grad():
                for parameter, array in zip(module.parameters(), arrays, strict=True):
                    parameter.copy_(torch.tensor(array))
        self.zero_grad()

    def losses(self):
        """Returns the losses and the shared features."""
        features = self.trunk(self.x)
        outputs = [decoder(features) for decoder in self.decoders.values()]
        return [torch.nn.functional.mse_loss(output, y) for output, y in zip(outputs, self.y, strict=True)], features

    def vectors(self):
        """Returns a copy of the shared parameters, and one of those of the heads."""
        parts = {"shared": self.encoder, "heads": self.decoders}
        return {name: torch.nn.utils.parameters_to_vector(part.parameters()).detach() for name, part in parts.items()}


def torchjd_step(network, method, variant):
    """Returns a step of TorchJD."""
    from torchjd import aggregation, autogram, autojac, scalarization

    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE)
    shared = list(network.encoder.parameters())
    tasks = len(network.decoders)
    makers = {
        "mgda": ("MGDA", ()),
        "pcgrad": ("PCGrad", ()),
        "cagrad": ("CAGrad", (CAGRAD_C,)),
        "imtl_g": ("IMTLG", ()),
        "nash_mtl": ("NashMTL", (tasks, 1.0, 1, 20)),
        "aligned_mtl": ("AlignedMTL", (torch.ones(tasks),)),
        "upgrad": ("UPGrad", ()),
    }
    if variant == "scalarizer":
        scalarizer = scalarization.Sum()

        def differentiate():
            losses, _ = network.losses()
            scalarizer(torch.stack(losses)).backward()

    elif variant == "autogram":
        name, options = makers[method]
        weighting = getattr(aggregation, f"{name}Weighting")(*options)
        if not hasattr(network, "engine"):
            network.engine = autogram.Engine(network.encoder, batch_dim=None)

        def differentiate():
            losses = torch.stack(network.losses()[0])
            losses.backward(weighting(network.engine.compute_gramian(losses)))

    else:
        name, options = makers[method]
        aggregator = getattr(aggregation, name)(*options)
        chunk = 1 if variant == "autojac one by one" else None

        def differentiate():
            losses, features = network.losses()
            autojac.mtl_backward(losses, features, parallel_chunk_size=chunk)
            autojac.jac_to_grad(shared, aggregator)

    def step():
        differentiate()
        optimizer.step()
        optimizer.zero_grad()

    return step


def libmtl_step(network, method):
    """Returns a step of LibMTL, as in the loop of its trainer."""
    import LibMTL.weighting

    weighting = getattr(LibMTL.weighting, LIBMTL[method])()
    weighting.encoder, weighting.decoders = network.encoder, network.decoders
    weighting.task_num, weighting.task_name = len(network.decoders), list(network.decoders)
    weighting.device, weighting.rep_grad = torch.device("cpu"), False
    weighting.get_share_params = network.encoder.parameters
    weighting.zero_grad_share_params = lambda: network.encoder.zero_grad(set_to_none=False)
    weighting.init_param()
    optimizer = torch.optim.SGD(weighting.parameters(), LEARNING_RATE)

    def step():
        losses, _ = network.losses()
        optimizer.zero_grad(set_to_none=False)
        weighting.backward(torch.stack(losses), **LIBMTL_OPTIONS.get(method, {}))
        optimizer.step()

    return step


class Steps:
    """Makes and runs steps; the networks are shared, so that each is compiled once."""

    def __init__(self, problem):
        self.problem, self.networks = problem, {}

    def start(self, library, method, variant):
        """Returns a step that starts from the initial weights, and its network."""
        # The engine of autogram puts hooks into its network, so no other variant uses that one.
        compiled = variant.endswith(" compiled")
        kind = (variant.startswith("autogram"), compiled)
        if kind not in self.networks:
            self.networks[kind] = Network(self.problem, compiled)
        network = self.networks[kind]
        network.restart()
        if library == "LibMTL":
            return libmtl_step(network, method), network
        return torchjd_step(network, method, variant.removesuffix(" compiled")), network

    def first_update(self, *key):
        """Returns the change of the shared parameters and of the heads in the first step."""
        step, network = self.start(*key)
        before = network.vectors()
        step()
        return {name: (after - before[name]).numpy() for name, after in network.vectors().items()}

    def time(self, *key, steps):
        """Returns seconds per step."""

        def run(step):
            step()
            return step

        return measure(lambda: self.start(*key)[0], run, lambda step: None, steps)


def main():
    """Answers commands until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="where the first updates go")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--torchjd", type=pathlib.Path, required=True, help="checkout of TorchJD")
    parser.add_argument("--libmtl", type=pathlib.Path, required=True, help="checkout of LibMTL")
    arguments = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    sys.path.insert(0, str(arguments.torchjd / "src"))
    sys.modules["LibMTL"] = types.ModuleType("LibMTL")  # the package imports the trainer, which needs much more
    sys.modules["LibMTL"].__path__ = [str(arguments.libmtl / "LibMTL")]
    torch.symeig = lambda matrix, eigenvectors: torch.linalg.eigh(matrix)  # PyTorch 2 has no symeig; LibMTL calls it
    # A compiled network must keep its graph for the backward passes of the other tasks. PyTorch's cache on disk ignores
    # this setting: with programs compiled without it, all passes but the first return wrong gradients.
    torch._functorch.config.donated_buffer = False
    torch._inductor.config.force_disable_caches = True
    steps = Steps(make_problem(arguments.network, arguments.tasks))
    for order, *rest in orders(sys.stdin):
        try:
            if order == "versions":
                answer = {
                    "torch": torch.__version__,
                    "numpy": np.__version__,
                    "python": platform.python_version(),
                    "threads": torch.get_num_threads(),
                }
            elif order == "make":
                before = time.perf_counter()
                update = steps.first_update(*rest)
                path = arguments.folder / f"{' '.join(rest)}.npz"
                np.savez(path, **update)
                answer = {"make_s": round(time.perf_counter() - before, 2), "update": str(path)}
            else:
                answer = {"s": steps.time(*rest[:-1], steps=int(rest[-1]))}
        except Exception as error:  # reported by run.py, which goes on with other cases
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
