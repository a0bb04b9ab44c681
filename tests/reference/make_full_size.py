"""Writes full_size.npz and torchvision.npz: networks of full width, computed with PyTorch.

    python make_full_size.py --mtan=<checkout of github.com/lorenmt/mtan, commit c36c30b>

Needs PyTorch and torchvision; the tests read the stored files only. Weights and images are those of `seeded.py`; only
running statistics are stored. Arrays keep PyTorch's layout: channels first.

full_size.npz: the authors' MTAN on SegNet as it is (13 classes), on two images of 288x384, in float32 unless said.

- `names` and `shapes` (int, filled up with 0): of the state_dict, without `num_batches_tracked` and `logsigma`.
- `running` float32: running means and variances of the images, flat, in the order of the names.
- `eval/<task>`, `train/<task>`: every 16th row and column of the predictions in evaluation and in training mode.
- `range/<task>` [2]: least and largest value of the whole predictions in evaluation mode.

And, for MODE of eval and train:

- `float64/MODE/NAME`: such rows and columns of what it predicts in float64. NAME: semantic, depth, and vector, the
  normals before the division by their length.
- `positions/MODE` [5]: crc32 of the positions of the encoder's max-poolings in float64, the finest first: int8 0..3
  (row by row in the window) [2, h, w, c].
- `turned/MODE` [5]: in how many windows float32 has another position.
- `gap/MODE` [5]: how much less than the window's largest value, in float64, the value there is; the largest such
  difference, as a share of the layer's largest value.
- `error/MODE/POOLING/NAME` [4]: of all predictions in float32 from those in float64, as shares of their range: how many
  differ by more than 1e-4, the median difference, its 99th percentile, the largest. POOLING: free, as it is; given,
  where unpooling goes by the positions of float64. NAME as above, and normal.

torchvision.npz: for NETWORK of resnet50 and resnet101 (dilated: replace_stride_with_dilation=[False, True, True]) and
vgg16_bn (its convolutions without the last pooling), in float64, on one image of 64x96:

- `NETWORK/names`, `NETWORK/shapes`, `NETWORK/running`: as above. VGG's classifier is left out.
- `NETWORK/features` [1, c, 8, 12] (VGG: [1, c, 4, 6]): the last features in evaluation mode, every 16th channel.
"""

import argparse
import copy
import pathlib
import zlib

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


class Pooling(torch.nn.Module):
    """The network's max-pooling, which shows its inputs and positions and may hand out given positions for its own."""

    def __init__(self, pool, given):
        super().__init__()
        self.pool, self.given, self.shown = pool, given, []

    def forward(self, x):
        values, positions = self.pool(x)
        self.shown.append((x, positions))
        return values, self.given[len(self.shown) - 1] if self.given else positions


def predict(network, image, mode, given=None):
    """Predictions by name, and inputs and positions of the encoder's max-poolings."""
    named = {}
    hook = network.pred_task3.register_forward_hook(lambda module, inputs, output: named.update(vector=output))
    pool, network.down_sampling = network.down_sampling, Pooling(network.down_sampling, given)
    with torch.no_grad():
        named |= zip(authors.TASKS, network.train(mode == "train")(image)[0], strict=True)
    shown, network.down_sampling = network.down_sampling.shown, pool
    hook.remove()
    return named, shown


def in_window(positions):
    """Positions in a 2x2 window, as int8 0..3 [b, h, w, c], of PyTorch's, which count the pixels of the whole map."""
    width = 2 * positions.shape[-1]
    return np.moveaxis((positions // width % 2 * 2 + positions % 2).to(torch.int8).numpy(), 1, -1)


def turned(exact, positions):
    """Windows in which positions differ from those of float64, and the largest gap there (`gap` above)."""
    features, exact_positions = exact
    values = features.flatten(2)
    gap = values.gather(2, exact_positions.flatten(2)) - values.gather(2, positions.flatten(2))
    return int((exact_positions != positions).sum()), float(gap.max() / features.max())


def errors(found, exact):
    """`error` above."""
    error = ((found.double() - exact).abs() / (exact.max() - exact.min())).numpy()
    return np.array([(error > 1e-4).mean(), np.median(error), np.quantile(error, 0.99), error.max()])


def full_size(checkout):
    network = authors.segnet_class(checkout, "mtan", {})()
    image = torch.tensor(seeded_image(2, 288, 384))
    stored = fill(network, lambda: network(image))
    network64 = copy.deepcopy(network).double()
    for mode in ("eval", "train"):  # in this order: the latter changes running statistics
        exact, exact_pools = predict(network64, image.double(), mode)
        free, pools = predict(network, image, mode)
        given, _ = predict(network, image, mode, [positions for _, positions in exact_pools])
        for task in authors.TASKS:
            stored[f"{mode}/{task}"] = free[task][..., ::16, ::16].numpy()
            if mode == "eval":
                stored[f"range/{task}"] = np.array([free[task].min(), free[task].max()])
        for name in ("semantic", "depth", "vector"):
            stored[f"float64/{mode}/{name}"] = exact[name][..., ::16, ::16].numpy()
        for name, values in exact.items():
            stored[f"error/{mode}/free/{name}"] = errors(free[name], values)
            stored[f"error/{mode}/given/{name}"] = errors(given[name], values)
        checksums = [zlib.crc32(np.ascontiguousarray(in_window(positions))) for _, positions in exact_pools]
        stored[f"positions/{mode}"] = np.array(checksums)
        changes = [turned(pool, positions) for pool, (_, positions) in zip(exact_pools, pools, strict=True)]
        stored[f"turned/{mode}"], stored[f"gap/{mode}"] = map(np.array, zip(*changes, strict=True))
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
