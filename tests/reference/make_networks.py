"""Writes segnet_networks.npz and resnet_mtan.npz: the authors' networks, narrow, with PyTorch in float64.

    python make_networks.py --mtan=<checkout of github.com/lorenmt/mtan, commit c36c30b>

Needs PyTorch; the tests read the stored files only. Arrays keep PyTorch's layout: channels first, [b, c, h, w]. The
classes are the authors' but for their sizes: channels 2, 3, 4, 5, 5 (6 at the end in "split_wide") instead of 64, 128,
256, 512, 512 (1024), and 5 classes instead of 13; of ResNet-50, a 32nd of the channels, and no dropout. Tasks are
semantic, depth and normal; single and stan hold semantic alone. Everything is float64 unless said otherwise.

- `image` [2, 3, h, h] in 0..1; `target/semantic` int64 [2, h, h], -1 void; `target/depth` [2, 1, h, h] and
  `target/normal` [2, 3, h, h], 0 where undefined: of all networks of a file. h is 32, and 64 for the ResNet.
- `NETWORK/adam` [10, tasks]: losses before each of ten steps of Adam (rate 1e-4, the authors') from the trained
  weights, on the sum of the losses. (From random ones such steps are chaotic: PyTorch's own losses differ in the third
  digit where the weights differ in the sixteenth.)
- `NETWORK/names` and `NETWORK/shapes` (int, filled up with 0): of the authors' state_dict, such as
  `encoder_att.TASK.BLOCK.0.weight`; their lists run from the finest block (0) to the coarsest (4), decoders too.
  Without `num_batches_tracked` and the unused `logsigma`.
- And with WEIGHTS = random, and trained (the class's own initial values after 100 steps of Adam at rate 1e-3, rounded
  to float32):
  - `NETWORK/WEIGHTS/state`: all arrays of the state_dict, flat, one after the other: random weights, biases, BatchNorm
    scales, offsets and running statistics; rounded, so that they take little room.
  - `NETWORK/WEIGHTS/eval/<task>`, `NETWORK/WEIGHTS/train/<task>`: every third row and column of the predictions
    (log-probabilities; depth; unit vectors) in evaluation and in training mode.
  - `NETWORK/WEIGHTS/loss/<task>`: losses of the training-mode predictions, from the authors' `model_fit`.
  - `NETWORK/WEIGHTS/gradient`: gradient of the sum of the losses for every parameter (the names without "running"),
    flat, float32. That of a convolution's bias before a BatchNorm is 0 but for rounding. The last block of dense's
    shared decoder is read by nothing and has none: 0.
  - `NETWORK/WEIGHTS/after`: running means and variances (the names with "running"), flat, after the one training-mode
    forward pass (torch's, so the variance of a batch is the unbiased one; the shared attention blocks are updated three
    times, in the order of the tasks).
"""

import argparse
import itertools
import pathlib

import authors
import numpy as np
import torch

SEED = 20190617
FOLDER = pathlib.Path(__file__).parent
CLASSES = 5
SEGNET_PATCHES = {
    "filter = [64, 128, 256, 512, 512]": "filter = [2, 3, 4, 5, 5]",
    "filter = [64, 128, 256, 512, 1024]": "filter = [2, 3, 4, 5, 6]",
    "self.class_nb = 13": f"self.class_nb = {CLASSES}",
}
RESNET_PATCHES = {
    "resnet.py": {
        "from torchvision.models.utils import load_state_dict_from_url": "",
        "self.inplanes = 64": "self.inplanes = 2",
        **{f"_make_layer(block, {64 * n}, ": f"_make_layer(block, {2 * n}, " for n in (1, 2, 4, 8)},
        "nn.Linear(512 * block.expansion, num_classes)": "None",
    },
    "resnet_dilated.py": {},
    "aspp.py": {"256": "8", "nn.Dropout(0.5)": "nn.Dropout(0.0)"},
    "resnet_mtan.py": {
        "(pretrained=True)": "()",
        "[256, 512, 1024, 2048]": "[8, 16, 32, 64]",
        "DeepLabHead(2048,": "DeepLabHead(64,",
        "'segmentation': 13": f"'segmentation': {CLASSES}",
    },
}


def randomise(network, image, rng):
    """Random weights; running statistics around those of the image, so that features keep a size of about 1."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            array = rng.normal(size=tuple(parameter.shape))
            if array.ndim == 4:
                array *= np.sqrt(2 / np.prod(array.shape[1:]))
            elif name.endswith("weight"):  # scale of a BatchNorm
                array = rng.uniform(0.5, 1.5, array.shape)
            else:
                array *= 0.2
            parameter.copy_(torch.tensor(array))

        norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        network.train()(image)
        for norm in norms:
            norm.momentum = 0.1
            deviation = norm.running_var.sqrt()
            norm.running_mean += 0.2 * deviation * torch.tensor(rng.normal(size=deviation.shape))
            norm.running_var *= torch.tensor(rng.uniform(0.5, 2, deviation.shape))
    round_to(torch.float16, network)


def round_to(dtype, network):
    """Rounds parameters and statistics to what a narrower type holds, which packs well."""
    with torch.no_grad():
        for array in network.state_dict().values():
            if array.is_floating_point():
                array.copy_(array.to(dtype).to(array.dtype))


def make_targets(rng, size):
    semantic = rng.integers(0, CLASSES, (2, size, size))
    semantic[rng.random(semantic.shape) < 0.15] = -1
    depth = rng.uniform(0.5, 9, (2, 1, size, size))
    depth[rng.random(depth.shape) < 0.3] = 0
    normal = rng.normal(size=(2, 3, size, size))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    normal *= rng.random((2, 1, size, size)) > 0.2
    return {"semantic": semantic, "depth": depth, "normal": normal}


def flat(arrays):
    return np.concatenate([array.numpy().ravel() for array in arrays])


class Runner:
    """Runs one network on one batch."""

    def __init__(self, network, tasks, image, targets, model_fit):
        self.network, self.tasks, self.image = network, tasks, image
        self.targets, self.model_fit = targets, model_fit

    def predict(self):
        found = self.network(self.image)
        predictions = found[0] if isinstance(found, list | tuple) else [found]
        return dict(zip(self.tasks, predictions, strict=True))

    def losses(self, predictions):
        return {task: self.model_fit(predictions[task], torch.tensor(self.targets[task]), task) for task in self.tasks}

    def outputs(self):
        """What is stored of the network with the weights it has; it has other statistics afterwards."""
        network, state = self.network, self.state()
        stored = {"state": flat(state.values())}
        with torch.no_grad():
            network.eval()
            stored |= {f"eval/{task}": values[..., ::3, ::3].numpy() for task, values in self.predict().items()}
        network.train().zero_grad()
        predictions = self.predict()
        losses = self.losses(predictions)
        sum(losses.values()).backward()
        stored |= {f"train/{task}": values.detach()[..., ::3, ::3].numpy() for task, values in predictions.items()}
        stored |= {f"loss/{task}": loss.detach().numpy() for task, loss in losses.items()}
        parameters = dict(network.named_parameters())
        gradients = [
            torch.zeros_like(array) if (gradient := parameters[name].grad) is None else gradient
            for name, array in state.items()
            if "running" not in name
        ]
        stored["gradient"] = flat(gradients).astype(np.float32)
        return stored | {"after": flat(array for name, array in state.items() if "running" in name)}

    def state(self):
        """What the tests need of the state_dict."""
        state = self.network.state_dict()
        return {name: state[name] for name in state if name != "logsigma" and "num_batches" not in name}

    def train(self, steps, rate):
        """Steps of Adam; the losses before each [steps, tasks]."""
        optimizer = torch.optim.Adam(self.network.train().parameters(), lr=rate)
        history = []
        for _ in range(steps):
            losses = self.losses(self.predict())
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            history.append([loss.item() for loss in losses.values()])
        return np.array(history)

    def run(self, rng):
        """All that is stored of the network."""
        shapes = [(*array.shape, 0, 0, 0, 0)[:4] for array in self.state().values()]
        stored = {"names": np.array(list(self.state())), "shapes": np.array(shapes)}

        self.train(100, 1e-3)
        round_to(torch.float32, self.network)
        trained = {name: array.clone() for name, array in self.network.state_dict().items()}
        stored |= {f"trained/{name}": array for name, array in self.outputs().items()}
        self.network.load_state_dict(trained)
        stored["adam"] = self.train(10, 1e-4)

        randomise(self.network, self.image, rng)
        return stored | {f"random/{name}": array for name, array in self.outputs().items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mtan", type=pathlib.Path, required=True)
    checkout = parser.parse_args().mtan
    model_fit = authors.import_utils(checkout).model_fit
    segnets = {
        name: (authors.segnet_class(checkout, name, SEGNET_PATCHES), tasks)
        for name, (_, _, tasks) in authors.NETWORKS.items()
    }
    resnets = {"mtan": (authors.resnet_mtan_class(checkout, RESNET_PATCHES), authors.TASKS)}
    for file, networks, size in (("segnet_networks", segnets, 32), ("resnet_mtan", resnets, 64)):
        rng = np.random.default_rng(SEED)
        image, targets = torch.tensor(rng.uniform(size=(2, 3, size, size))), make_targets(rng, size)
        stored = {"image": image.numpy(), **{f"target/{name}": array for name, array in targets.items()}}
        for name, (network, tasks) in networks.items():
            # From some initial values the authors' code runs into a normal of length 0, by which it divides.
            for seed in itertools.count():
                torch.manual_seed(seed)
                arrays = Runner(network().double(), tasks, image, targets, model_fit).run(rng)
                if np.isfinite(arrays["adam"]).all():
                    break
            stored |= {f"{name}/{key}": array for key, array in arrays.items()}
        np.savez_compressed(FOLDER / f"{file}.npz", **stored)


if __name__ == "__main__":
    main()
