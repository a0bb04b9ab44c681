"""Writes full_size.npz and torchvision.npz: networks of full width, computed with PyTorch.

    python make_full_size.py --mtan=<checkout of github.com/lorenmt/mtan, commit c36c30b>

Needs PyTorch and torchvision; the tests read the stored files only. Weights and images are those of `seeded.py`; only
running statistics are stored. Arrays keep PyTorch's layout: channels first.

full_size.npz: the authors' MTAN on SegNet as it is (13 classes), in float32, on two images of 288x384.

- `names` and `shapes` (int, filled up with 0): of the state_dict, without `num_batches_tracked` and `logsigma`.
- `running` float32: running means and variances of the images, flat, in the order of the names.
- `eval/<task>`, `train/<task>`: every 16th row and column of the predictions in evaluation and in training mode.
- `range/<task>` [2]: least and largest value of the whole predictions in evaluation mode.

torchvision.npz: for NETWORK of resnet50 and resnet101 (dilated: replace_stride_with_dilation=[False, True, True]) and
vgg16_bn (its convolutions without the last pooling), in float64, on one image of 64x96:

- `NETWORK/names`, `NETWORK/shapes`, `NETWORK/running`: as above. VGG's classifier is left out.
- `NETWORK/features` [1, c, 8, 12] (VGG: [1, c, 4, 6]): the last features in evaluation mode, every 16th channel.
"""

import argparse
import pathlib

import authors
import numpy as np
import torch
import torchvision
from seeded import seeded_image, seeded_weights

FOLDER = pathlib.Path(__file__).parent


def fill(network, run):
    """Seeded weights, and the running statistics that `run` leaves; what is stored of them."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.tensor(seeded_weights(name, tuple(parameter.shape))))
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the mean over all batches
        network.train()
        run()
    state = network.state_dict()
    for name, array in state.items():
        if "running" in name:
            array.copy_(array.float())
    kept = [name for name in state if "num_batches" not in name and name != "logsigma"]
    kept = [name for name in kept if not name.startswith("classifier.")]
    return {
        "names": np.array(kept),
        "shapes": np.array([(*state[name].shape, 0, 0, 0, 0)[:4] for name in kept]),
        "running": np.concatenate([state[name].numpy().astype(np.float32) for name in kept if "running" in name]),
    }


def full_size(checkout):
    network = authors.segnet_class(checkout, "mtan", {})()
    image = torch.tensor(seeded_image(2, 288, 384))
    stored = fill(network, lambda: network(image))
    with torch.no_grad():
        for mode in ("eval", "train"):
            predictions = network.train(mode == "train")(image)[0]
            for task, values in zip(authors.TASKS, predictions, strict=True):
                stored[f"{mode}/{task}"] = values[..., ::16, ::16].numpy()
                if mode == "eval":
                    stored[f"range/{task}"] = np.array([values.min(), values.max()])
    return stored


def backbones():
    dilated = {"replace_stride_with_dilation": [False, True, True]}
    networks = {
        "resnet50": torchvision.models.resnet50(**dilated),
        "resnet101": torchvision.models.resnet101(**dilated),
        "vgg16_bn": torchvision.models.vgg16_bn(),
    }
    image = torch.tensor(seeded_image(1, 64, 96)).double()
    for name, network in networks.items():
        parts = [network.features[:-1]] if name.startswith("vgg") else list(network.children())[:-2]
        run = torch.nn.Sequential(*parts).double()
        filled = fill(network, lambda run=run: run.train()(image))
        yield from ((f"{name}/{key}", array) for key, array in filled.items())
        with torch.no_grad():
            yield f"{name}/features", run.eval()(image)[:, ::16].numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mtan", type=pathlib.Path, required=True)
    checkout = parser.parse_args().mtan
    np.savez_compressed(FOLDER / "full_size.npz", **full_size(checkout))
    np.savez_compressed(FOLDER / "torchvision.npz", **dict(backbones()))


if __name__ == "__main__":
    main()
