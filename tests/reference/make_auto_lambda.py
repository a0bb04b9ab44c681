"""Writes auto_lambda.npz: how the authors' Auto-Lambda trains a small network, in float64.

    python make_auto_lambda.py --auto_lambda=<checkout of github.com/lorenmt/auto-lambda, commit bdba636>

Needs PyTorch and SciPy; the tests read the stored file only. The network is tanh(x A) B, its i-th output is task i's,
and a loss is a mean square: `AutoLambda.model_fit`, which has the losses of dense tasks, is the one function that is
another. The steps are those of the authors' loop: weights first, then SGD with the new ones. Every 8 steps the rate
of the network halves.

For K = 2, 3 and 10 tasks, the primary ones all (`all`) or the first (`first`):

- `K/x`, `K/second_x` [24, 6, 5] and `K/y`, `K/second_y` [24, 6, K]: the two batches of 24 steps.
- `K/shared` [5, 4], `K/heads` [4, K]: A and B at the start.
- `K/all/lambdas`, `K/first/lambdas` [24, K]: the weights after each step.
- `K/all/shared`, `K/all/heads`, `K/first/shared`, `K/first/heads`: A and B after the last step.
"""

import argparse
import pathlib
import sys

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent
STEPS, ROWS = 24, 6
RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 0.01
META_RATE, INITIAL = 0.02, 0.1


class Network(torch.nn.Module):
    def __init__(self, shared, heads):
        super().__init__()
        self.shared, self.heads = (torch.nn.Parameter(torch.tensor(array)) for array in (shared, heads))

    def forward(self, x):
        return list((torch.tanh(x @ self.shared) @ self.heads).T)


def train(method, data, primary):
    """The weights after each step, and the parameters after the last."""
    tasks = {f"task_{i}": None for i in range(data["y"].shape[-1])}

    class Regression(method):
        def model_fit(self, pred, targets):
            return [torch.mean((pred[i] - targets[name]) ** 2) for i, name in enumerate(self.train_tasks)]

    model = Network(data["shared"], data["heads"])
    chosen = {name: None for i, name in enumerate(tasks) if primary == "all" or i == 0}
    learner = Regression(model, "cpu", tasks, chosen, INITIAL)
    meta = torch.optim.Adam([learner.meta_weights], lr=META_RATE)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY, momentum=MOMENTUM)
    lambdas = []
    for step in range(STEPS):
        batches = {key: torch.tensor(data[key][step]) for key in ("x", "y", "second_x", "second_y")}
        targets, second_targets = (dict(zip(tasks, batches[key].T, strict=True)) for key in ("y", "second_y"))
        optimizer.param_groups[0]["lr"] = rate = RATE * 0.5 ** (step // 8)
        meta.zero_grad()
        learner.unrolled_backward(batches["x"], targets, batches["second_x"], second_targets, rate, optimizer)
        meta.step()
        optimizer.zero_grad()
        losses = learner.model_fit(model(batches["x"]), targets)
        sum(w * loss for w, loss in zip(learner.meta_weights, losses, strict=True)).backward()
        optimizer.step()
        lambdas.append(learner.meta_weights.detach().numpy().copy())
    return {
        "lambdas": np.stack(lambdas),
        "shared": model.shared.detach().numpy(),
        "heads": model.heads.detach().numpy(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--auto_lambda", type=pathlib.Path, required=True)
    sys.path.insert(0, str(parser.parse_args().auto_lambda))
    from auto_lambda import AutoLambda

    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    stored = {}
    for tasks in (2, 3, 10):
        data = {key: rng.normal(size=(STEPS, ROWS, 5)) for key in ("x", "second_x")}
        data |= {"shared": rng.normal(size=(5, 4)), "heads": rng.normal(size=(4, tasks))}
        # Targets that can be learned in part, of sizes that differ, some against each other.
        truth, size = rng.normal(size=(5, tasks)), rng.uniform(0.3, 2, tasks)
        for prefix in ("", "second_"):
            data[f"{prefix}y"] = (np.tanh(data[f"{prefix}x"] @ truth) + rng.normal(size=(STEPS, ROWS, tasks))) * size
        stored |= {f"{tasks}/{name}": values for name, values in data.items()}
        for primary in ("all", "first"):
            found = train(AutoLambda, data, primary)
            stored |= {f"{tasks}/{primary}/{name}": values for name, values in found.items()}
    np.savez_compressed(FOLDER / "auto_lambda.npz", **stored)


if __name__ == "__main__":
    main()
