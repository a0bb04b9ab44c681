"""Maps paths of our variables to entry names in PyTorch files of MTAN's authors (im2im_pred) and torchvision.

Paths are without the collection, such as ("backbone", "encoder_0", "layer_0", "conv", "conv", "kernel").
"""

import dataclasses
import functools
from collections.abc import Callable

from mtan_jax.models import IMAGE_BACKBONES
from mtan_jax.models.backbones import resnet, segnet
from mtan_jax.types import Path

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# These arrays are per task in our networks and shared by all tasks in the files.
_LEAVES |= {"own_mean": "running_mean", "own_var": "running_var"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The entry names of one kind of PyTorch file for one of our networks.

    Attributes:
        title: description of the file for messages.
        names: path -> names of the entries that contain the array, concatenated along their first axis; () if the file
            does not contain it. For an array with one row per task ("own_..."), the entry is one row, the same for all
            tasks.
        ignored: prefixes of the names of entries that the network does not use.
    """

    title: str
    names: Callable[[Path], tuple[str, ...]]
    ignored: tuple[str, ...]


def layouts(arch: str, backbone: str, tasks: tuple[str, ...]) -> tuple[Layout, ...]:
    """The layouts of PyTorch files for a network.

    Args:
        arch: as in `config.model.arch`.
        backbone: as in `config.model.backbone`.
        tasks: task names in the order of the file, since the authors number tasks.

    Returns:
        The layouts, the most complete first. The authors' files contain the whole network; torchvision's contain the
        backbone (of SegNet, the encoder).
    """
    found = []
    naming: Callable[[Path], tuple[str, ...]]
    if (arch, backbone) in _AUTHORS:
        naming = functools.partial(_AUTHORS[arch, backbone], tasks=tasks)
        one = (
            " (one file per task: set config.tasks to one task)"
            if arch in ("single", "stan") and len(tasks) > 1
            else ""
        )
        found.append(Layout(f"the authors' {arch} on {backbone}{one}", naming, ("logsigma",)))
    if backbone in _TORCHVISION and arch not in _CHANGED:
        name, naming = _TORCHVISION[backbone]
        found.append(Layout(f"torchvision's {name}", functools.partial(_of_backbone, naming), ("fc.", "classifier.")))
    return tuple(found)


# The authors' networks on SegNet.


def _segnet(path: Path, tasks: tuple[str, ...], *, depth: int = 1) -> tuple[str, ...]:
    """MTAN and split networks; `depth` is the number of convolutions per layer (2 for "split, deep")."""
    return (_segnet_name(path, tasks, depth),)


def _segnet_alone(path: Path, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Single-task networks and STAN, for which the authors' files contain one task each."""
    if len(tasks) > 1:
        return ()
    return (_segnet_name(path[1:], tasks).replace("pred_task1.", "pred_task.", 1),)


def _segnet_blocks(path: Path, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Cross-stitch and dense networks."""
    if path[0] == "stitch":
        return ("cs_unit_encoder", "cs_unit_decoder")
    if path[0].startswith("head_"):
        return _segnet(path, tasks)
    side, level = path[1].split("_")
    task = path[0].removeprefix("backbone").removeprefix("_")
    block = f"{side}_block_t.{tasks.index(task)}.{level}" if task else f"{side}_block.{level}"
    return (f"{block}.{_conv_or_norm(path[3:], 3 * _last_number(path[2]))}",)


def _segnet_name(path: Path, tasks: tuple[str, ...], depth: int = 1) -> str:
    if path[0].startswith("head_"):
        number = tasks.index(path[0].removeprefix("head_")) + 1
        return f"pred_task{number}.{_last_number(path[1])}.{_LEAVES[path[-1]]}"
    if path[0].startswith("shared_"):
        side, level = path[0].removeprefix("shared_").split("_")
        return f"{side}_block_att.{level}.{_conv_or_norm(path[1:], 0)}"
    if path[0].startswith("attention_"):
        side, level = path[1].split("_")
        return f"{side}_att.{_task_index(path, tasks)}.{level}.{_mask(path[2:])}"
    side, level = path[1].split("_")
    layer, within = divmod(_last_number(path[2]), depth)
    if layer == 0:
        block = f"{side}_block.{level}"
    else:
        block = f"conv_block_{side[:3]}.{level}" + (f".{layer - 1}" if int(level) > 1 else "")
    return f"{block}.{_conv_or_norm(path[3:], 3 * within)}"


# The authors' MTAN on ResNet.


def _resnet_mtan(path: Path, tasks: tuple[str, ...], *, layers: tuple[int, ...]) -> tuple[str, ...]:
    if path[0].startswith("head_"):
        return (f"decoders.{tasks.index(path[0].removeprefix('head_'))}.{_deeplab(path[1:])}",)
    if path[0].startswith("shared_"):
        return (f"encoder_block_att_{_last_number(path[0])}.{_bottleneck(path[1:])}",)
    number = _last_number(path[1])
    if path[0].startswith("attention_"):
        return (f"encoder_att_{number}.{_task_index(path, tasks)}.{_mask(path[2:])}",)
    if path[2] == "stem":
        return (f"shared_conv.{_conv_or_norm(path[3:], 0)}",)
    block = _last_number(path[2])
    if block == layers[number - 1] - 1:
        return (f"shared_layer{number}_t.{_bottleneck(path[3:])}",)
    return (f"shared_layer{number}_b.{block}.{_bottleneck(path[3:])}",)


def _deeplab(path: Path) -> str:
    if path[0] == "predict":
        return f"4.{_LEAVES[path[-1]]}"
    if path[0] == "refine":
        return _conv_or_norm(path[1:], 1)
    if path[0] == "project":
        return f"0.project.{_conv_or_norm(path[1:], 0)}"
    branch = {"point": 0, "rate_12": 1, "rate_24": 2, "rate_36": 3, "mean": 4}[path[0]]
    return f"0.convs.{branch}.{_conv_or_norm(path[1:], 1 if path[0] == 'mean' else 0)}"


# The authors' MTAN on Wide ResNet for the Visual Decathlon (visual_decathlon).


def _wide_resnet_mtan(path: Path, tasks: tuple[str, ...]) -> tuple[str, ...]:
    if path[0].startswith("head_"):
        return (f"linear.{tasks.index(path[0].removeprefix('head_'))}.0.{_LEAVES[path[-1]]}",)
    stage = path[0].removeprefix("shared_") if path[0].startswith("shared_") else path[1]
    level = 0 if stage == "stem" else _last_number(stage) + 1
    if path[0].startswith("shared_"):
        return (f"encoder_block_att.{level}.{_conv_or_norm(path[1:], 0)}",)
    if path[0].startswith("attention_"):
        return (f"encoder_att.{_task_index(path, tasks)}.{level}.{_mask(path[2:])}",)
    if level == 0:
        return (f"conv1.{_LEAVES[path[-1]]}",)
    if path[2] == "norm":
        return (f"bn1.{_LEAVES[path[-1]]}",)
    block = f"layer{level}.{_last_number(path[2])}"
    if path[3] == "shortcut":
        return (f"{block}.shortcut.0.{_LEAVES[path[-1]]}",)
    kind, number = path[3].split("_")
    return (f"{block}.{'bn' if kind == 'norm' else kind}{int(number) + 1}.{_LEAVES[path[-1]]}",)


# torchvision's backbones.


def _of_backbone(naming: Callable[[Path], tuple[str, ...]], path: Path) -> tuple[str, ...]:
    """Applies `naming` below the backbone, which is shared, per task, or part of a single-task network."""
    for i, key in enumerate(path[:2]):
        if key == "backbone" or key.startswith("backbone_"):
            return naming(path[i + 1 :])
    return ()


def _torchvision_resnet(path: Path) -> tuple[str, ...]:
    if path[1] == "stem":
        return (f"{'conv' if path[2] == 'conv' else 'bn'}1.{_LEAVES[path[-1]]}",)
    return (f"layer{_last_number(path[0])}.{_last_number(path[1])}.{_bottleneck(path[2:])}",)


def _torchvision_vgg(path: Path) -> tuple[str, ...]:
    if not path[0].startswith("encoder_"):
        return ()
    # torchvision counts three modules per layer (convolution, BatchNorm, ReLU) and one pooling per block.
    before = sum(3 * segnet.layers(level) + 1 for level in range(_last_number(path[0])))
    return (f"features.{_conv_or_norm(path[2:], before + 3 * _last_number(path[1]))}",)


# Parts of networks.


def _mask(path: Path) -> str:
    return _conv_or_norm(path[1:], {"hidden": 0, "output": 3}[path[0]])


def _task_index(path: Path, tasks: tuple[str, ...]) -> int:
    return tasks.index(path[0].removeprefix("attention_"))


def _bottleneck(path: Path) -> str:
    if path[0] == "project":
        return f"downsample.{_conv_or_norm(path[1:], 0)}"
    kind = {"conv": "conv", "norm": "bn"}[path[1]]
    return f"{kind}{_last_number(path[0]) + 1}.{_LEAVES[path[-1]]}"


def _conv_or_norm(path: Path, offset: int) -> str:
    return f"{offset + {'conv': 0, 'norm': 1}[path[0]]}.{_LEAVES[path[-1]]}"


def _last_number(name: str) -> int:
    return int(name.rsplit("_", 1)[1])


# (architecture, backbone) -> entry names in the authors' files
_AUTHORS: dict[tuple[str, str], Callable[..., tuple[str, ...]]] = {
    ("mtan", "segnet"): _segnet,
    ("split", "segnet"): _segnet,
    ("split_wide", "segnet"): _segnet,
    ("split_deep", "segnet"): functools.partial(_segnet, depth=2),
    ("single", "segnet"): _segnet_alone,
    ("stan", "segnet"): _segnet_alone,
    ("dense", "segnet"): _segnet_blocks,
    ("cross_stitch", "segnet"): _segnet_blocks,
    **{
        ("mtan", name): functools.partial(_resnet_mtan, layers=resnet.LAYERS[name])
        for name in ("resnet50", "resnet101")
    },
    **{("mtan", name): _wide_resnet_mtan for name in IMAGE_BACKBONES},
}

# Architectures whose backbones differ from torchvision's.
_CHANGED = ("split_wide", "split_deep", "dense")

# backbone -> torchvision's name of the network, and its entry names
_TORCHVISION: dict[str, tuple[str, Callable[[Path], tuple[str, ...]]]] = {
    "resnet50": ("resnet50", _torchvision_resnet),
    "resnet101": ("resnet101", _torchvision_resnet),
    "vgg16": ("vgg16_bn", _torchvision_vgg),
    "segnet": ("vgg16_bn", _torchvision_vgg),
}
