"""Writes metrics.npz: losses and metrics of three batches, computed by the authors' own functions.

    python make_metrics.py --mtan=<checkout of github.com/lorenmt/mtan, commit c36c30b>

Needs PyTorch; the tests read the stored file only. Keys, for batch i in 0, 1, 2 (of 2, 2 and 1 images of 12x16 pixels;
channels last, unlike in the authors' code):

- `i/semantic/prediction` float32 [b, h, w, 5], log-probabilities; `i/semantic/target` int8 [b, h, w], -1 void.
- `i/depth/prediction`, `i/depth/target` float32 [b, h, w, 1]; `i/normal/prediction`, `i/normal/target` float32
  [b, h, w, 3]; undefined targets are 0.
- `i/<task>/loss` float32, `i/<task>/gradient` of the loss for the prediction, from `model_fit`.
- `i/depth/errors` float32 [2], from `depth_error`: absolute, relative.
- `i/normal/errors` float32 [5], from `normal_error`: mean, median, within 11.25, 22.5, 30 degrees.
- `confusion_matrix` int64 [5, 5] and `semantic` float32 [2] (mean IoU, pixel accuracy), from `ConfMatrix` over the
  three batches.
"""

import argparse
import importlib
import pathlib
import sys

import numpy as np
import torch

SEED = 20190616
CLASSES = 5
HEIGHT, WIDTH = 12, 16


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make_batch(rng, size):
    """Predictions and targets with every kind of undefined pixel and with angles from 0 to 180 degrees."""
    shape = (size, HEIGHT, WIDTH)
    logits = rng.normal(size=(*shape, CLASSES))
    semantic = rng.integers(0, CLASSES, shape)
    logits += 2 * np.eye(CLASSES)[semantic] * rng.integers(0, 2, (*shape, 1))
    semantic[rng.random(shape) < 0.2] = -1
    depth = rng.uniform(0.5, 9, (*shape, 1))
    depth_prediction = depth + rng.normal(size=depth.shape)
    depth[rng.random(shape) < 0.3] = 0
    normal = unit(rng.normal(size=(*shape, 3)))
    spread = rng.choice([0, 0.1, 0.5, 3], (*shape, 1))
    normal_prediction = unit(normal + spread * rng.normal(size=normal.shape))
    normal[rng.random(shape) < 0.25] = 0
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return {
        "semantic": (log_probabilities.astype(np.float32), semantic.astype(np.int8)),
        "depth": (depth_prediction.astype(np.float32), depth.astype(np.float32)),
        "normal": (normal_prediction.astype(np.float32), normal.astype(np.float32)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mtan", type=pathlib.Path, required=True)
    sys.path.insert(0, str(parser.parse_args().mtan / "im2im_pred"))
    authors = importlib.import_module("utils")

    rng = np.random.default_rng(SEED)
    confusion = authors.ConfMatrix(CLASSES)
    stored = {}
    for i, size in enumerate([2, 2, 1]):
        for task, (prediction, target) in make_batch(rng, size).items():
            x_pred = torch.tensor(np.moveaxis(prediction, -1, 1)).contiguous().requires_grad_()
            x_output = torch.tensor(target.astype(np.int64) if task == "semantic" else np.moveaxis(target, -1, 1))
            loss = authors.model_fit(x_pred, x_output, task)
            (gradient,) = torch.autograd.grad(loss, x_pred)
            stored[f"{i}/{task}/prediction"] = prediction
            stored[f"{i}/{task}/target"] = target
            stored[f"{i}/{task}/loss"] = loss.detach().numpy()
            stored[f"{i}/{task}/gradient"] = np.moveaxis(gradient.numpy(), 1, -1)
            x_pred = x_pred.detach()
            if task == "semantic":
                confusion.update(x_pred.argmax(1).flatten(), x_output.flatten())
            else:
                measure = {"depth": authors.depth_error, "normal": authors.normal_error}[task]
                stored[f"{i}/{task}/errors"] = np.array(measure(x_pred, x_output), np.float32)
    stored["confusion_matrix"] = confusion.mat.numpy()
    stored["semantic"] = np.array(confusion.get_metrics(), np.float32)
    np.savez_compressed(pathlib.Path(__file__).with_name("metrics.npz"), **stored)


if __name__ == "__main__":
    main()
