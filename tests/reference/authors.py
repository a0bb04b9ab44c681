"""The classes of MTAN's authors (github.com/lorenmt/mtan, commit c36c30b), from a checkout; needs PyTorch."""

import ast
import importlib
import sys
import types

import torch

TASKS = ("semantic", "depth", "normal")

# network -> file, arguments on its command line, tasks
NETWORKS = {
    "mtan": ("mtan", [], TASKS),
    "single": ("single", ["--task", "semantic"], TASKS[:1]),
    "stan": ("stan", ["--task", "semantic"], TASKS[:1]),
    "split": ("split", ["--type", "standard"], TASKS),
    "split_wide": ("split", ["--type", "wide"], TASKS),
    "split_deep": ("split", ["--type", "deep"], TASKS),
    "dense": ("dense", [], TASKS),
    "cross_stitch": ("cross", [], TASKS),
}


def segnet_class(checkout, name, patches):
    """A network of `NETWORKS`. The authors' file trains when imported: it is cut.

    Args:
        checkout: of the authors' repository.
        name: of the network.
        patches: old -> new text, such as channel counts; where the file lacks the old text, nothing changes.
    """
    file, arguments, _ = NETWORKS[name]
    path = checkout / "im2im_pred" / f"model_segnet_{file}.py"
    source, _, rest = path.read_text().partition("# define model, optimiser and scheduler")
    if not rest:
        raise ValueError(f"{path} lacks the line after which it trains; wrong commit?")
    for old, new in patches.items():
        source = source.replace(old, new)
    namespace = {}
    before, sys.argv = sys.argv, [str(path), *arguments]  # their file reads the command line
    import_utils(checkout)
    exec(compile(source, str(path), "exec"), namespace)
    sys.argv = before
    return namespace["SegNet"]


def resnet_mtan_class(checkout, patches):
    """MTAN on ResNet-50; called with the image alone, as the other networks are.

    Args:
        checkout: of the authors' repository.
        patches: file -> {old -> new text}, in the order in which the files import each other.
    """
    folder = checkout / "im2im_pred" / "model_resnet_mtan"
    for file, texts in patches.items():
        source = (folder / file).read_text()
        for old, new in texts.items():
            if old not in source:
                raise ValueError(f"{folder / file} lacks {old!r}; wrong commit?")
            source = source.replace(old, new)
        module = types.ModuleType(file.removesuffix(".py"))
        sys.modules[module.__name__] = module
        exec(compile(source, str(folder / file), "exec"), module.__dict__)

    class Network(module.MTANDeepLabv3):
        def forward(self, image):
            return [super().forward(image, image.shape[-2:])]

    return Network


def wide_resnet_class(checkout, patches):
    """MTAN on Wide ResNet for the Visual Decathlon. The authors' file trains when imported: its networks are cut out.

    Args:
        checkout: of the authors' repository.
        patches: old -> new text, such as channel counts.
    """
    path = checkout / "visual_decathlon" / "model_wrn_mtan.py"
    source = path.read_text()
    for old, new in patches.items():
        if old not in source:
            raise ValueError(f"{path} lacks {old!r}; wrong commit?")
        source = source.replace(old, new)
    tree = ast.parse(source)
    needed = ("conv3x3", "wide_basic", "WideResNet")
    tree.body = [node for node in tree.body if getattr(node, "name", None) in needed]
    namespace = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, "device": torch.device("cpu")}
    exec(compile(tree, str(path), "exec"), namespace)
    return namespace["WideResNet"]


def import_utils(checkout):
    """The authors' module of losses."""
    if str(checkout / "im2im_pred") not in sys.path:
        sys.path.insert(0, str(checkout / "im2im_pred"))
    return importlib.import_module("utils")
