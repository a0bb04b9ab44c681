"""Writes layers.npz and segnet_mtan.npz: pooling, resizing and a whole narrow MTAN, computed with PyTorch in float64.

    python make_segnet.py --mtan=<checkout of github.com/lorenmt/mtan, commit c36c30b>

Needs PyTorch; the tests read the stored files only. Arrays keep PyTorch's layout: channels first, [b, c, h, w].
Everything is float64 unless said otherwise.

layers.npz, from torch.nn.functional:

- `pool/input` [2, 3, 6, 8], small whole numbers, so that most windows have ties. `pool/output` [2, 3, 3, 4] and
  `pool/indices` int64 (position y * 8 + x in the input's plane) from max_pool2d(2, 2); `pool/cotangent` of the output
  and `pool/gradient` of the input.
- `unpool/input` [2, 3, 3, 4] and `unpool/output` [2, 3, 6, 8] from max_unpool2d with `pool/indices`;
  `unpool/cotangent`, `unpool/gradient`.
- `resize/HxW/input` [2, 3, H, W], `resize/HxW/output` [2, 3, 2H, 2W] from interpolate(scale_factor=2, bilinear,
  align_corners=True), `resize/HxW/cotangent`, `resize/HxW/gradient`, for HxW of 1x1, 2x3, 4x4, 5x8 and 9x12.

segnet_mtan.npz, from the authors' own SegNet class and loss function. The class is theirs but for its sizes: channels
4, 6, 8, 12, 12 instead of 64, 128, 256, 512, 512, and 5 classes instead of 13. Tasks 0, 1, 2 are semantic, depth and
normal:

- `state/<name>`: state_dict before the forward passes, with seeded random weights, biases, BatchNorm scales, offsets
  and running statistics. `num_batches_tracked` and the unused `logsigma` are left out.
- `image` [2, 3, 64, 64] in 0..1; `target/semantic` int64 [2, 64, 64], -1 void; `target/depth` [2, 1, 64, 64] and
  `target/normal` [2, 3, 64, 64], 0 where undefined.
- `eval/semantic`, `eval/depth`, `eval/normal`: predictions in evaluation mode (log-probabilities; depth; unit vectors),
  [2, channels, 64, 64].
- `train/semantic`, `train/depth`, `train/normal`: predictions in training mode.
- `loss/semantic`, `loss/depth`, `loss/normal`: losses of the training-mode predictions, from `model_fit`.
- `gradient/<name>`: gradient of the sum of the three losses for every parameter. That of a convolution's bias before a
  BatchNorm is 0 but for rounding.
- `after/<name>`: running means and variances after the one training-mode forward pass (torch's, so the variance of a
  batch is the unbiased one; the shared attention blocks are updated three times, in the order of the tasks).

Names are those of the authors' state_dict, such as `encoder_att.TASK.BLOCK.0.weight`; their lists run from the finest
block (0) to the coarsest (4), decoders too.
"""

import argparse
import importlib
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F

SEED = 20190617
FOLDER = pathlib.Path(__file__).parent
TASKS = ["semantic", "depth", "normal"]
CLASSES = 5
PATCHES = {
    "filter = [64, 128, 256, 512, 512]": "filter = [4, 6, 8, 12, 12]",
    "self.class_nb = 13": f"self.class_nb = {CLASSES}",
}


def gradient(output, cotangent, source):
    return torch.autograd.grad(output, source, cotangent)[0].numpy()


def make_layers(rng):
    stored = {}
    pooled = torch.tensor(rng.integers(-2, 2, (2, 3, 6, 8)).astype(np.float64), requires_grad=True)
    output, indices = F.max_pool2d(pooled, 2, 2, return_indices=True)
    cotangent = torch.tensor(rng.normal(size=output.shape))
    stored["pool/input"] = pooled.detach().numpy()
    stored["pool/output"] = output.detach().numpy()
    stored["pool/indices"] = indices.numpy()
    stored["pool/cotangent"] = cotangent.numpy()
    stored["pool/gradient"] = gradient(output, cotangent, pooled)

    unpooled = torch.tensor(rng.normal(size=output.shape), requires_grad=True)
    output = F.max_unpool2d(unpooled, indices, 2, 2)
    cotangent = torch.tensor(rng.normal(size=output.shape))
    stored["unpool/input"] = unpooled.detach().numpy()
    stored["unpool/output"] = output.detach().numpy()
    stored["unpool/cotangent"] = cotangent.numpy()
    stored["unpool/gradient"] = gradient(output, cotangent, unpooled)

    for height, width in [(1, 1), (2, 3), (4, 4), (5, 8), (9, 12)]:
        small = torch.tensor(rng.normal(size=(2, 3, height, width)), requires_grad=True)
        output = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=True)
        cotangent = torch.tensor(rng.normal(size=output.shape))
        stored[f"resize/{height}x{width}/input"] = small.detach().numpy()
        stored[f"resize/{height}x{width}/output"] = output.detach().numpy()
        stored[f"resize/{height}x{width}/cotangent"] = cotangent.numpy()
        stored[f"resize/{height}x{width}/gradient"] = gradient(output, cotangent, small)
    return stored


def load_authors(checkout):
    """The authors' network class, made narrow, and their loss function. Their file trains when imported: it is cut."""
    folder = checkout / "im2im_pred"
    sys.path.insert(0, str(folder))
    source = (folder / "model_segnet_mtan.py").read_text()
    source, _, rest = source.partition("# define model, optimiser and scheduler")
    if not rest:
        raise ValueError(f"{folder / 'model_segnet_mtan.py'} lacks the line after which it trains; wrong commit?")
    for old, new in PATCHES.items():
        if source.count(old) != 1:
            raise ValueError(f"{folder / 'model_segnet_mtan.py'} has {old!r} {source.count(old)} times; wrong commit?")
        source = source.replace(old, new)
    sys.argv = sys.argv[:1]  # their file reads the command line
    namespace = {}
    exec(compile(source, "model_segnet_mtan.py", "exec"), namespace)
    return namespace["SegNet"], importlib.import_module("utils").model_fit


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


def make_targets(rng):
    semantic = rng.integers(0, CLASSES, (2, 64, 64))
    semantic[rng.random(semantic.shape) < 0.15] = -1
    depth = rng.uniform(0.5, 9, (2, 1, 64, 64))
    depth[rng.random(depth.shape) < 0.3] = 0
    normal = rng.normal(size=(2, 3, 64, 64))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    normal *= rng.random((2, 1, 64, 64)) > 0.2
    return {"semantic": semantic, "depth": depth, "normal": normal}


def make_network(checkout, rng):
    network_class, model_fit = load_authors(checkout)
    network = network_class().double()
    image = torch.tensor(rng.uniform(size=(2, 3, 64, 64)))
    randomise(network, image, rng)
    targets = make_targets(rng)
    stored = {"image": image.numpy(), **{f"target/{task}": targets[task] for task in TASKS}}
    kept = [name for name in network.state_dict() if name != "logsigma" and not name.endswith("num_batches_tracked")]
    stored |= {f"state/{name}": network.state_dict()[name].numpy().copy() for name in kept}

    with torch.no_grad():
        predictions = dict(zip(TASKS, network.eval()(image)[0], strict=True))
    stored |= {f"eval/{task}": predictions[task].numpy() for task in TASKS}

    predictions = dict(zip(TASKS, network.train()(image)[0], strict=True))
    losses = {task: model_fit(predictions[task], torch.tensor(targets[task]), task) for task in TASKS}
    sum(losses.values()).backward()
    stored |= {f"train/{task}": predictions[task].detach().numpy() for task in TASKS}
    stored |= {f"loss/{task}": losses[task].detach().numpy() for task in TASKS}
    stored |= {
        f"gradient/{name}": parameter.grad.numpy()
        for name, parameter in network.named_parameters()
        if name != "logsigma"
    }
    stored |= {f"after/{name}": network.state_dict()[name].numpy() for name in kept if "running" in name}
    return stored


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mtan", type=pathlib.Path, required=True)
    checkout = parser.parse_args().mtan
    np.savez_compressed(FOLDER / "layers.npz", **make_layers(np.random.default_rng(SEED)))
    np.savez_compressed(FOLDER / "segnet_mtan.npz", **make_network(checkout, np.random.default_rng(SEED)))


if __name__ == "__main__":
    main()
