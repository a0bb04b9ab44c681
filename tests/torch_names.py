"""What the arrays of our networks are called in the PyTorch code of MTAN's authors (im2im_pred)."""

from collections.abc import Callable

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
Path = tuple[str, ...]
Naming = Callable[[Path, tuple[str, ...]], str]


def segnet_name(path: Path, tasks: tuple[str, ...], *, depth: int = 1) -> str:
    """MTAN and split networks on SegNet.

    Args:
        path: keys of one of our arrays.
        tasks: in the authors' order: their names count tasks.
        depth: convolutions a layer (2 in "split, deep").
    """
    if path[0].startswith("head_"):
        number = tasks.index(path[0].removeprefix("head_")) + 1
        return f"pred_task{number}.{_last_number(path[1])}.{LEAVES[path[-1]]}"
    if path[0] == "attention":
        return _attention(path, tasks)
    side, level = path[1].split("_")
    layer, within = divmod(_last_number(path[2]), depth)
    if layer == 0:
        block = f"{side}_block.{level}"
    else:
        block = f"conv_block_{side[:3]}.{level}" + (f".{layer - 1}" if int(level) > 1 else "")
    return f"{block}.{_conv_or_norm(path[3:], 3 * within)}"


def segnet_alone_name(path: Path, tasks: tuple[str, ...]) -> str:
    """Single-task networks and STAN on SegNet: each of the authors' files holds one task.

    Raises:
        ValueError: for several tasks.
    """
    if len(tasks) > 1:
        raise ValueError(
            f"tasks {', '.join(tasks)}: the authors' single-task networks hold one task a file, so give config.tasks "
            "one task"
        )
    name = segnet_name(path[1:], tasks)
    return name.replace("pred_task1.", "pred_task.", 1)


def segnet_blocks_name(path: Path, tasks: tuple[str, ...]) -> str:
    """Cross-stitch and dense networks on SegNet."""
    if path[0].startswith("head_"):
        return segnet_name(path, tasks)
    side, level = path[1].split("_")
    task = path[0].removeprefix("backbone").removeprefix("_")
    block = f"{side}_block_t.{tasks.index(task)}.{level}" if task else f"{side}_block.{level}"
    return f"{block}.{_conv_or_norm(path[3:], 3 * _last_number(path[2]))}"


def _attention(path: Path, tasks: tuple[str, ...]) -> str:
    side, level, *shared = path[1].split("_")
    if shared:
        return f"{side}_block_att.{level}.{_conv_or_norm(path[2:], 0)}"
    where, _, leaf = path[3].partition("_")
    index = {"hidden": 0, "output": 3}[where] + (leaf not in ("kernel", "conv_bias"))
    return f"{side}_att.{tasks.index(path[2])}.{level}.{index}.{LEAVES[leaf.removeprefix('conv_')]}"


def _conv_or_norm(path: Path, offset: int) -> str:
    return f"{offset + {'conv': 0, 'norm': 1}[path[0]]}.{LEAVES[path[-1]]}"


def _last_number(name: str) -> int:
    return int(name.rsplit("_", 1)[1])


def resnet_name(path: Path, tasks: tuple[str, ...], *, layers: tuple[int, ...] = (3, 4, 6, 3)) -> str:
    """MTAN on ResNet-50 (model_resnet_mtan)."""
    if path[0].startswith("head_"):
        return f"decoders.{tasks.index(path[0].removeprefix('head_'))}.{_deeplab(path[1:])}"
    number = path[1].split("_")[1]
    if path[0] == "attention":
        if path[1].endswith("_shared"):
            return f"encoder_block_att_{number}.{_bottleneck(path[2:])}"
        where, _, leaf = path[3].partition("_")
        index = {"hidden": 0, "output": 3}[where] + (leaf not in ("kernel", "conv_bias"))
        return f"encoder_att_{number}.{tasks.index(path[2])}.{index}.{LEAVES[leaf.removeprefix('conv_')]}"
    if path[2] == "stem":
        return f"shared_conv.{_conv_or_norm(path[3:], 0)}"
    block = _last_number(path[2])
    if block == layers[int(number) - 1] - 1:
        return f"shared_layer{number}_t.{_bottleneck(path[3:])}"
    return f"shared_layer{number}_b.{block}.{_bottleneck(path[3:])}"


def _bottleneck(path: Path) -> str:
    if path[0] == "project":
        return f"downsample.{_conv_or_norm(path[1:], 0)}"
    kind = {"conv": "conv", "norm": "bn"}[path[1]]
    return f"{kind}{_last_number(path[0]) + 1}.{LEAVES[path[-1]]}"


def _deeplab(path: Path) -> str:
    if path[0] == "predict":
        return f"4.{LEAVES[path[-1]]}"
    if path[0] == "refine":
        return _conv_or_norm(path[1:], 1)
    if path[0] == "project":
        return f"0.project.{_conv_or_norm(path[1:], 0)}"
    branch = {"point": 0, "rate_12": 1, "rate_24": 2, "rate_36": 3, "mean": 4}[path[0]]
    return f"0.convs.{branch}.{_conv_or_norm(path[1:], 1 if path[0] == 'mean' else 0)}"
