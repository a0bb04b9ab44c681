"""Writes segnet_networks.npz and resnet_mtan.npz: the authors' other networks, narrow, with PyTorch in float64.

    python make_networks.py --mtan=<checkout of github.com/lorenmt/mtan, commit c36c30b>

Needs PyTorch; the tests read the stored file only. Arrays keep PyTorch's layout: channels first, [b, c, h, w]. The
classes are the authors' but for their sizes: channels 2, 3, 4, 5, 5 (6 at the end in "split_wide") instead of 64, 128,
256, 512, 512 (1024), and 5 classes instead of 13. Tasks are semantic, depth and normal; single and stan hold semantic
alone. Everything is float64 unless said otherwise.

- `image` [2, 3, 32, 32], `target/semantic` int64 [2, 32, 32] (-1 void), `target/depth` [2, 1, 32, 32], `target/normal`
  [2, 3, 32, 32] (0 undefined): of all networks.
- For NETWORK of single, stan, split, split_wide, split_deep, dense, cross_stitch: `NETWORK/state/<name>`,
  `NETWORK/gradient/<name>`, `NETWORK/after/<name>`, `NETWORK/loss/<task>` as `make_segnet.py` has them, and
  `NETWORK/eval/<task>`, `NETWORK/train/<task>`: every third row and column of the predictions.

The last block of dense's shared decoder is read by nothing and has no gradient.

resnet_mtan.npz: the authors' MTAN on ResNet-50 with a 32nd of the channels, without dropout, images of 64x64; `image`,
`target/...`, and without a prefix what the other file has a network.
"""

import argparse
import importlib
import pathlib
import sys
import types

import numpy as np
import torch
from make_segnet import CLASSES, FOLDER, SEED, TASKS, make_targets, randomise

SIZE = 32
# network -> file, arguments on its command line, tasks
NETWORKS = {
    "single": ("single", ["--task", "semantic"], TASKS[:1]),
    "stan": ("stan", ["--task", "semantic"], TASKS[:1]),
    "split": ("split", ["--type", "standard"], TASKS),
    "split_wide": ("split", ["--type", "wide"], TASKS),
    "split_deep": ("split", ["--type", "deep"], TASKS),
    "dense": ("dense", [], TASKS),
    "cross_stitch": ("cross", [], TASKS),
}
PATCHES = {
    "filter = [64, 128, 256, 512, 512]": "filter = [2, 3, 4, 5, 5]",
    "filter = [64, 128, 256, 512, 1024]": "filter = [2, 3, 4, 5, 6]",
    "self.class_nb = 13": f"self.class_nb = {CLASSES}",
}


def load_class(folder, file, arguments):
    """The authors' network class, made narrow. Their file trains when imported: it is cut."""
    path = folder / f"model_segnet_{file}.py"
    source, _, rest = path.read_text().partition("# define model, optimiser and scheduler")
    if not rest:
        raise ValueError(f"{path} lacks the line after which it trains; wrong commit?")
    for old, new in PATCHES.items():
        source = source.replace(old, new)
    sys.argv = [str(path), *arguments]  # their file reads the command line
    namespace = {}
    exec(compile(source, str(path), "exec"), namespace)
    return namespace["SegNet"]


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


def load_resnet(folder):
    """The authors' MTAN on ResNet-50, made narrow; called with the image alone, as their other networks are."""
    for file, patches in RESNET_PATCHES.items():
        source = (folder / file).read_text()
        for old, new in patches.items():
            if old not in source:
                raise ValueError(f"{folder / file} lacks {old!r}; wrong commit?")
            source = source.replace(old, new)
        module = types.ModuleType(file.removesuffix(".py"))
        sys.modules[module.__name__] = module  # the later files import the earlier ones
        exec(compile(source, str(folder / file), "exec"), module.__dict__)

    class Network(module.MTANDeepLabv3):
        def forward(self, image):
            return [super().forward(image, image.shape[-2:])]

    return Network


def run(network, tasks, image, targets, model_fit):
    """What is stored of a network."""
    kept = [name for name in network.state_dict() if name != "logsigma" and not name.endswith("num_batches_tracked")]
    stored = {f"state/{name}": network.state_dict()[name].numpy().copy() for name in kept}

    def predict():
        predictions = network(image)[0] if len(tasks) > 1 else [network(image)]
        return dict(zip(tasks, predictions, strict=True))

    with torch.no_grad():
        network.eval()
        stored |= {f"eval/{task}": values[..., ::3, ::3].numpy() for task, values in predict().items()}
    network.train()
    predictions = predict()
    losses = {task: model_fit(predictions[task], torch.tensor(targets[task]), task) for task in tasks}
    sum(losses.values()).backward()
    stored |= {f"train/{task}": values.detach()[..., ::3, ::3].numpy() for task, values in predictions.items()}
    stored |= {f"loss/{task}": loss.detach().numpy() for task, loss in losses.items()}
    for name, parameter in network.named_parameters():
        if name != "logsigma":
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            stored[f"gradient/{name}"] = gradient.numpy()
    return stored | {f"after/{name}": network.state_dict()[name].numpy() for name in kept if "running" in name}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mtan", type=pathlib.Path, required=True)
    folder = parser.parse_args().mtan / "im2im_pred"
    sys.path.insert(0, str(folder))
    model_fit = importlib.import_module("utils").model_fit
    rng = np.random.default_rng(SEED)
    image = torch.tensor(rng.uniform(size=(2, 3, SIZE, SIZE)))
    targets = {name: array[..., :SIZE, :SIZE] for name, array in make_targets(rng).items()}
    stored = {"image": image.numpy(), **{f"target/{name}": array for name, array in targets.items()}}
    for name, (file, arguments, tasks) in NETWORKS.items():
        network = load_class(folder, file, arguments)().double()
        randomise(network, image, rng)
        arrays = run(network, tasks, image, targets, model_fit)
        stored |= {f"{name}/{key}": array for key, array in arrays.items()}
    np.savez_compressed(FOLDER / "segnet_networks.npz", **stored)

    image, targets = torch.tensor(rng.uniform(size=(2, 3, 64, 64))), make_targets(rng)
    network = load_resnet(folder / "model_resnet_mtan")().double()
    randomise(network, image, rng)
    stored = {"image": image.numpy(), **{f"target/{name}": array for name, array in targets.items()}}
    np.savez_compressed(FOLDER / "resnet_mtan.npz", **stored, **run(network, TASKS, image, targets, model_fit))


if __name__ == "__main__":
    main()
