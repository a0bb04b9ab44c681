"""Runs LibMTL's methods on the authors' MTAN in PyTorch, on command.

`run.py` starts it; it needs PyTorch, what LibMTL's methods import (cvxpy, ECOS, SciPy, qpsolvers, quadprog), and
neither JAX nor mtan_jax. Commands are lines on stdin, answers are lines of JSON on stdout:

- `ready`: versions, and the losses of the first batch;
- `memory METHOD`: peak bytes of PyTorch's allocator during three steps, network and optimizer included;
- `make LABEL METHOD`: makes network, method and optimizer, and runs four steps;
- `step LABEL TURN`: milliseconds of one step, wall and CPU of all threads;
- `losses LABEL TURN`: milliseconds of a forward pass that keeps the arrays for a backward pass;
- `optimizer LABEL TURN`: milliseconds of Adam, on the last step's gradient.
"""

import argparse
import copy
import gc
import json
import os
import pathlib
import sys
import time
import types
import warnings

import numpy as np
import torch

TASKS = ("semantic", "depth", "normal")
THREE_BATCHES = ("MoDo", "SDMGrad")
# After the epochs in which methods do less: STCH's warm-up (it ends with the fourth), and those of DWA and GradNorm.
WARM_UP_EPOCH, EPOCH, EPOCHS = 4, 5, 6


class Network(torch.nn.Module):
    """The interface that LibMTL's methods need of a network; all parameters but the heads' are shared."""

    def start(self, network, batches, options):
        """Initializes the network; `__init__` belongs to the methods."""
        self.network, self.batches, self.options = network, batches, options
        self.heads = [network.pred_task1, network.pred_task2, network.pred_task3]
        kept_apart = {id(head) for head in self.heads}
        self.encoder = torch.nn.ModuleList(part for part in network.children() if id(part) not in kept_apart)
        self.decoders = dict(zip(TASKS, self.heads, strict=True))
        self.task_name, self.task_num, self.device = list(TASKS), len(TASKS), torch.device("cpu")
        self.train_loss_buffer = np.ones((len(TASKS), EPOCHS))
        self.epoch = WARM_UP_EPOCH
        self.rep_grad = type(self).__name__ == "GradDrop"  # LibMTL's GradDrop supports nothing else
        if self.rep_grad:
            self.rep, self.rep_tasks = {}, {}
            for task, head in self.decoders.items():
                head.register_forward_pre_hook(lambda _, given, task=task: self.cut(task, *given))
        self.init_param()
        self.optimizer = torch.optim.Adam(self.parameters(), lr=1e-4)
        return self

    def cut(self, task, features):
        """Gives the head a detached copy of its features; LibMTL continues the gradient from there itself."""
        self.rep[task] = features
        self.rep_tasks[task] = features.detach().clone().requires_grad_()
        return (self.rep_tasks[task],)

    def get_share_params(self):
        return self.encoder.parameters()

    def zero_grad_share_params(self):
        self.encoder.zero_grad(set_to_none=False)

    def forward_pass(self, turn):
        image, targets = self.batches[turn % len(self.batches)]
        predictions, _ = self.network(image)
        terms = zip(predictions, TASKS, strict=True)
        return torch.stack([self.model_fit(prediction, targets[task], task) for prediction, task in terms])

    def train_step(self, turn):
        """Runs a step as LibMTL's trainer does."""
        kind = type(self).__name__
        if kind in THREE_BATCHES:
            losses = torch.stack([self.forward_pass(turn + i) for i in range(3)])
        else:
            losses = self.forward_pass(turn)
        self.optimizer.zero_grad(set_to_none=False)
        self.backward(losses, **self.options)
        self.optimizer.step()
        if kind == "FAMO":
            with torch.no_grad():
                self.update_w(self.forward_pass(turn).detach())


class Worker:
    """Answers the commands."""

    def __init__(self, arguments):
        sys.path[:0] = [str(arguments.reference)]
        import authors

        full = (64, 128, 256, 512, 512)
        patches = {
            f"filter = {list(full)}": f"filter = {[int(n * arguments.width) for n in full]}",
            "self.class_nb = 13": f"self.class_nb = {arguments.classes}",
        }
        make = authors.segnet_class(arguments.mtan, "mtan", patches)
        self.model_fit = authors.import_utils(arguments.mtan).model_fit
        torch.manual_seed(0)
        self.network = make()
        self.network.logsigma = None  # the authors' uncertainty weights, which are not part of the network
        np.savez(arguments.weights, **{name: array.numpy() for name, array in self.network.state_dict().items()})
        sys.modules["LibMTL"] = types.ModuleType("LibMTL")  # the package imports the trainer, which needs much more
        sys.modules["LibMTL"].__path__ = [str(arguments.libmtl / "LibMTL")]
        import LibMTL.config
        import LibMTL.weighting

        self.methods = LibMTL.weighting
        self.options = vars(LibMTL.config.LibMTL_args.parse_args([]))  # LibMTL's defaults
        with np.load(arguments.batches) as stored:
            count = 1 + max(int(name.split("/")[0]) for name in stored)
            self.batches = [
                (
                    torch.tensor(stored[f"{i}/image"]),
                    {task: torch.tensor(stored[f"{i}/{task}"]) for task in TASKS},
                )
                for i in range(count)
            ]
        self.made = {}

    def ready(self):
        with torch.no_grad():
            losses = self.new("EW").forward_pass(0)
        versions = {"torch": torch.__version__, "numpy": np.__version__, "python": sys.version.split()[0]}
        return {"losses": losses.tolist(), "threads": torch.get_num_threads(), **versions}

    def new(self, name):
        kind = type(name, (Network, getattr(self.methods, name)), {"model_fit": staticmethod(self.model_fit)})
        return kind().start(copy.deepcopy(self.network).train(), self.batches, self.options)

    def make(self, label, name):
        self.made[label] = model = self.new(name)
        for turn in range(4):
            model.epoch = WARM_UP_EPOCH if turn == 0 else EPOCH
            model.train_step(turn)
        return {}

    def step(self, label, turn):
        return timed(lambda: self.made[label].train_step(int(turn)))

    def losses(self, label, turn):
        return timed(lambda: self.made[label].forward_pass(int(turn)))

    def optimizer(self, label, turn):
        del turn
        return timed(self.made[label].optimizer.step)

    def memory(self, name):
        """Returns the peak memory from the profiler's allocation events, which are negative for a release."""
        gc.collect()  # garbage of an earlier command must not be released meanwhile
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            model = self.new(name)
            for turn in range(3):
                model.epoch = WARM_UP_EPOCH if turn == 0 else EPOCH
                model.train_step(turn)
        events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
        return {"held_bytes": int(np.cumsum(changes).max())}


def timed(function):
    """Returns the milliseconds that a call takes."""
    start = time.perf_counter(), time.process_time()
    function()
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    return {"wall_ms": round(1e3 * wall, 2), "cpu_ms": round(1e3 * cpu, 2)}


def old_names():
    """Restores names removed from PyTorch and NumPy, and sets an option that LibMTL does not offer."""
    torch.symeig = lambda matrix, eigenvectors: torch.linalg.eigh(matrix)
    setattr(np, "alltrue", np.all)  # noqa: B010 a plain assignment is rewritten to the new name
    grad = torch.autograd.grad
    # A task's loss does not depend on the masks of the others. Their gradient is 0; LibMTL would raise an error.
    torch.autograd.grad = lambda *args, **options: grad(*args, **{"materialize_grads": True, **options})


def main():
    """Reads commands until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("mtan", "libmtl", "reference", "batches", "weights"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--width", type=float, required=True)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of the methods must not be read as an answer
    warnings.simplefilter("ignore")  # cvxpy warns on every solve
    torch.set_num_threads(arguments.threads)
    old_names()
    worker = Worker(arguments)
    for line in sys.stdin:
        order, *given = line.split()
        try:
            found = getattr(worker, order)(*given)
        except Exception as error:  # a method that fails must not end the run of the others
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
