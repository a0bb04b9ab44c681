"""Writes ldc_mtl.npz: how the code of LDC-MTL's authors weighs given losses, in float64.

    python make_ldc_mtl.py --ldc_mtl=<checkout of github.com/OptMN-Lab/LDC-MTL, commit 7c39465>

Needs PyTorch; the tests read the stored file only. The total loss is in the training loops of the authors' scripts.
Those statements are cut out by the names that they assign, and run with given losses. The learned numbers s, one per
task, start at 1 and are trained by Adam at 0.1; c = sigmoid(s), as in CelebA's script.

- `K/losses` [20, K] for K = 2, 3 and 10 tasks: of 20 steps.
- `K/first` [K]: the first losses, other than these and rounded to float32.
- `K/none`, `K/log` [20, K]: the derivatives of the total loss by the losses with CelebA's statements (penalty 0.02) and
  QM9's (penalty 0.05).
- `K/initial` [20, K]: the same with NYUv2's statements, penalty 0.05. There the sum of c has a derivative, since
  NYUv2's c is a softmax; s is trained with CelebA's total loss of NYUv2's normalized losses.
"""

import argparse
import ast
import pathlib
import types

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent
STEPS, RATE = 20, 0.1
TOTAL = ("weighted_loss", "wl", "loss_diff", "total_loss")
PENALTY = {"none": 0.02, "log": 0.05, "initial": 0.05}


def cut(path, names):
    """The statements that assign these names, compiled."""
    tree = ast.parse(path.read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in names]
    found.sort(key=lambda node: node.lineno)
    if [ast.unparse(node.targets[0]) for node in found] != list(names):
        raise ValueError(f"{path} does not assign {names} once each; wrong commit?")
    return compile(ast.Module(found, type_ignores=[]), str(path), "exec")


def run(code, **given):
    namespace = {"torch": torch, **given}
    exec(code, namespace)
    return namespace


def weigh(checkout, losses, first, normalize):
    celeba, qm9, nyuv2 = (
        cut(checkout / "experiments" / name / "trainer.py", TOTAL) for name in ("celeba", "quantum_chemistry", "nyuv2")
    )
    ratios = cut(checkout / "experiments" / "nyuv2" / "trainer.py", ("initial_loss", "ratios"))
    logits = torch.ones(losses.shape[1], requires_grad=True)
    adam = torch.optim.Adam([logits], lr=RATE)
    first, lamb, found = torch.tensor(first), PENALTY[normalize], []
    for values in losses:
        given = torch.tensor(values, requires_grad=True)
        weights = torch.sigmoid(logits)
        if normalize == "none":
            by_loss = by_logit = run(celeba, weights=weights, losses=given, lamb=lamb)["total_loss"]
        elif normalize == "log":
            by_loss = by_logit = run(qm9, weights=weights, losses=given, lamb=lamb, initial_loss=first)["total_loss"]
        else:
            scale = run(ratios, losses=first)["ratios"]
            arguments = types.SimpleNamespace(lamb=lamb)
            by_loss = run(nyuv2, train_pred=[None] * 3 + [weights], losses=given, ratios=scale, args=arguments)[
                "total_loss"
            ]
            by_logit = run(celeba, weights=weights, losses=given / scale, lamb=lamb)["total_loss"]
        found.append(torch.autograd.grad(by_loss, given, retain_graph=True)[0].numpy())
        logits.grad = torch.autograd.grad(by_logit, logits)[0]
        adam.step()
    return np.stack(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ldc_mtl", type=pathlib.Path, required=True)
    checkout = parser.parse_args().ldc_mtl
    torch.set_default_dtype(torch.float64)
    rng, stored = np.random.default_rng(0), {}
    for tasks in (2, 3, 10):
        losses = rng.uniform(0.1, 3, (STEPS, tasks)) * np.linspace(1, 0.3, STEPS)[:, None]
        first = rng.uniform(1, 4, tasks).astype(np.float32).astype(float)
        stored |= {f"{tasks}/losses": losses, f"{tasks}/first": first}
        for normalize in PENALTY:
            stored[f"{tasks}/{normalize}"] = weigh(checkout, losses, first, normalize)
    np.savez_compressed(FOLDER / "ldc_mtl.npz", **stored)


if __name__ == "__main__":
    main()
