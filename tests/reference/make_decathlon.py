"""Writes wrn_mtan.npz: the authors' MTAN for the Visual Decathlon, narrow and as it is, with PyTorch.

    python make_decathlon.py --mtan=<checkout of github.com/lorenmt/mtan, commit c36c30b>

Needs PyTorch; the tests read the stored file only. The class is the authors' (visual_decathlon/model_wrn_mtan.py) but
for the channels of the narrow one: 2, 6, 12, 24 instead of 16, 64, 128, 256, at a depth of 16. Tasks are counted 0..9.
Images, parameters and labels are functions of names and numbers (`seeded.py`): images of 72x72, of which the average
pooling of 8x8 sees 8x8 of 9x9 positions. Everything is float64 unless said otherwise.

For NETWORK of narrow (classes 5, 2, 7, 3, 4, 2, 6, 5, 3, 8) and full (WRN-28-4 and the ten sets' numbers of classes):

- `NETWORK/names` and `NETWORK/shapes` (int, filled up with 0): of the state_dict, without `num_batches_tracked`.
- `NETWORK/running` float16: running means and variances, flat, in the order of the names: around those of the images.
- `NETWORK/eval/K`: task K's predictions (probabilities) of the first images in evaluation mode, four (full: two) x
  classes; of all tasks.
- `NETWORK/train/K`: in training mode, of K in `TRAINED`. Narrow: of the first four images for the first K, of the next
  four for the second.

Of narrow, for K in `TRAINED`, all from the running statistics above:

- `narrow/loss/K` [4]: of the training-mode predictions with `seeded_labels`, from the authors' `model_fit`.
- `narrow/gradient/K`: gradient of the mean of these losses for every parameter (the names without "running"), flat,
  float32; 0 where there is none.
- `narrow/after/K`: running means and variances after the one training-mode forward pass (torch's, so the variance of a
  batch is the unbiased one).

Of full:

- `full/error/MODE/K`: how far the logarithms of the predictions in float32 are from those in float64, at most.
- `full/loss/K`: for K in `TRAINED`, the mean of the losses of these images with `seeded_labels`.
- `full/size/K` and `full/products/K` [p], [p, 8]: of the gradient of that mean, for every parameter (the names without
  "running"), its norm, and its products with the directions of `seeded_directions`.
- `full/rounding/K` [p]: the norm of the difference between that gradient and the one in float32.
"""

import argparse
import copy
import pathlib

import authors
import numpy as np
import torch
from seeded import seeded_directions, seeded_image, seeded_labels, seeded_weights

FOLDER = pathlib.Path(__file__).parent
SEED = 20190617
CLASSES = {
    "narrow": (5, 2, 7, 3, 4, 2, 6, 5, 3, 8),
    "full": (1000, 100, 100, 2, 47, 43, 1623, 10, 101, 102),
}
TRAINED = (3, 6)
SIZE = 72
NARROW = {
    "filter = [16, 16 * k, 32 * k, 64 * k]": "filter = [2, 6, 12, 24]",
    "self.in_planes = 16": "self.in_planes = 2",
}


def fill(network, image):
    """Seeded parameters, and random running statistics around those of the image for all tasks."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    rng = np.random.default_rng(SEED)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.tensor(seeded_weights(name, tuple(parameter.shape))))
        for norm in norms:
            norm.momentum = None  # the mean over all batches
        network.train()
        for k in range(10):
            network(image, k)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            deviation = norm.running_var.sqrt()
            norm.running_mean += 0.2 * deviation * torch.tensor(rng.normal(size=deviation.shape))
            norm.running_var *= torch.tensor(rng.uniform(0.5, 2, deviation.shape))
        for name, array in network.state_dict().items():
            if "running" in name:
                array.copy_(array.half())


def flat(arrays):
    return np.concatenate([array.numpy().ravel() for array in arrays])


def arrays_of(network):
    return {name: array for name, array in network.state_dict().items() if "num_batches" not in name}


def running(network):
    return flat(array for name, array in arrays_of(network).items() if "running" in name)


def described(network):
    """The entries of the state_dict, and the statistics."""
    arrays = arrays_of(network)
    shapes = [(*array.shape, 0, 0, 0, 0)[:4] for array in arrays.values()]
    return {"names": np.array(list(arrays)), "shapes": np.array(shapes), "running": running(network).astype(np.float16)}


def predict(network, image, k, mode):
    with torch.no_grad():
        return copy.deepcopy(network).train(mode == "train")(image, k)


def trained(network, image, k):
    """On a copy, which is returned too: predictions, losses, and the gradients of their mean by name."""
    network = copy.deepcopy(network).train()
    predictions = network(image, k)
    classes = predictions.shape[1]
    labels = torch.tensor(seeded_labels(len(image), classes))
    losses = network.model_fit(predictions, labels, classes)
    losses.mean().backward()
    gradients = {
        name: torch.zeros_like(array) if array.grad is None else array.grad
        for name, array in network.named_parameters()
    }
    return network, predictions.detach().numpy(), losses.detach().numpy(), gradients


def step(network, image, k):
    """What one step computes."""
    network, predictions, losses, gradients = trained(network, image, k)
    return {
        f"train/{k}": predictions,
        f"loss/{k}": losses,
        f"gradient/{k}": flat(gradients.values()).astype(np.float32),
        f"after/{k}": running(network),
    }


def step_in_short(network, image, k):
    """Its loss, and what is told of gradients that are too large to store."""
    _, _, losses, gradients = trained(network, image, k)
    arrays = {name: array.numpy().ravel() for name, array in gradients.items()}
    *_, rounded = trained(copy.deepcopy(network).float(), image.float(), k)
    return {
        f"rounding/{k}": np.array([(gradients[name] - rounded[name]).norm() for name in gradients]),
        f"loss/{k}": losses.mean(),
        f"size/{k}": np.array([np.linalg.norm(array) for array in arrays.values()]),
        f"products/{k}": np.stack([seeded_directions(name, array.size) @ array for name, array in arrays.items()]),
    }


def narrow(checkout):
    network = authors.wide_resnet_class(checkout, NARROW)(16, 1, CLASSES["narrow"]).double()
    image = torch.tensor(seeded_image(8, SIZE, SIZE)).double()
    fill(network, image)
    stored = described(network)
    stored |= {f"eval/{k}": predict(network, image[:4], k, "eval").numpy() for k in range(10)}
    for i, k in enumerate(TRAINED):
        stored |= step(network, image[4 * i : 4 * (i + 1)], k)
    return stored


def full(checkout):
    network = authors.wide_resnet_class(checkout, {})(28, 4, CLASSES["full"]).double()
    image = torch.tensor(seeded_image(2, SIZE, SIZE)).double()
    fill(network, image)
    stored = described(network)
    for mode, tasks in (("eval", range(10)), ("train", TRAINED)):
        for k in tasks:
            exact = predict(network, image, k, mode)
            rounded = predict(copy.deepcopy(network).float(), image.float(), k, mode).double()
            stored[f"{mode}/{k}"] = exact.numpy()
            stored[f"error/{mode}/{k}"] = (rounded.log() - exact.log()).abs().max().numpy()
    for k in TRAINED:
        stored |= step_in_short(network, image, k)
    return stored


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mtan", type=pathlib.Path, required=True)
    checkout = parser.parse_args().mtan
    stored = {f"narrow/{name}": array for name, array in narrow(checkout).items()}
    stored |= {f"full/{name}": array for name, array in full(checkout).items()}
    np.savez_compressed(FOLDER / "wrn_mtan.npz", **stored)


if __name__ == "__main__":
    main()
