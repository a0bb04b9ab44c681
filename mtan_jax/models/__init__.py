"""Networks: `build_model` makes any pair of architecture and backbone from `config.model`."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import ml_collections
from flax import linen as nn

from mtan_jax.models.backbones.resnet import resnet
from mtan_jax.models.backbones.segnet import WIDE, segnet
from mtan_jax.models.backbones.vgg import vgg16
from mtan_jax.models.backbones.wide_resnet import Layers, wide_resnet
from mtan_jax.models.cross_stitch import CrossStitch
from mtan_jax.models.dense import Dense
from mtan_jax.models.layers.heads import Head
from mtan_jax.models.layers.task_layers import (
    CombinedConv,
    FrozenConv,
    MaskedConv,
    OwnConv,
    ParallelConv,
    SeriesConv,
    SharedConv,
)
from mtan_jax.models.many_to_many import ManyToMany
from mtan_jax.models.mtan import MTAN
from mtan_jax.models.numerics import Numerics
from mtan_jax.models.split import Separate, Split
from mtan_jax.models.stage import Backbone, Flow, Stage
from mtan_jax.tasks import Task

__all__ = [
    "ARCHITECTURES",
    "BACKBONES",
    "SHARE_FEATURES",
    "Backbone",
    "Flow",
    "Head",
    "Numerics",
    "Stage",
    "build_backbone",
    "build_model",
    "pairs",
]

# name -> what makes the backbone: (width, numerics) -> Backbone
BACKBONES: dict[str, Callable[[float, Numerics], Backbone]] = {
    "segnet": segnet,
    "resnet50": functools.partial(resnet, "resnet50"),
    "resnet101": functools.partial(resnet, "resnet101"),
    "vgg16": vgg16,
}


# name -> what makes the network: (backbone, tasks) -> module
ARCHITECTURES: dict[str, Callable[[Backbone, tuple[Task, ...]], nn.Module]] = {
    "mtan": MTAN,
    "single": functools.partial(Separate, Split),
    "stan": functools.partial(Separate, MTAN),
    "split": Split,
    "split_wide": Split,
    "split_deep": Split,
    "dense": Dense,
    "cross_stitch": CrossStitch,
}

# Those whose tasks share features: a weighting method may look at gradients with respect to these.
SHARE_FEATURES = ("mtan", "split", "split_wide", "split_deep", "dense")

# Architectures that ask more of a backbone, and how those that have it are made.
VARIANTS: dict[str, dict[str, Callable[..., Backbone]]] = {
    "split_wide": {"segnet": functools.partial(segnet, widths=WIDE)},
    "split_deep": {"segnet": functools.partial(segnet, depth=2)},
    "dense": {"segnet": segnet},
}

# Of networks whose images belong to one task each: name -> what makes the backbone: (width, layers) -> Backbone
IMAGE_BACKBONES: dict[str, Callable[[float, Layers], Backbone]] = {
    "wrn10_4": functools.partial(wide_resnet, 10),
    "wrn16_4": functools.partial(wide_resnet, 16),
    "wrn28_4": functools.partial(wide_resnet, 28),
}

# And what their layers are: 3x3 convolutions, 1x1 convolutions, BatchNorms. Attention is MTAN's alone.
IMAGE_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "mtan": {"conv": SharedConv, "shortcut": SharedConv, "norm": "shared"},
    "split": {"conv": SharedConv, "shortcut": SharedConv, "norm": "shared"},
    "single": {"conv": OwnConv, "shortcut": OwnConv, "norm": "own"},
    "feature_extraction": {"conv": FrozenConv, "shortcut": FrozenConv, "norm": "frozen"},
    "series_adapters": {"conv": SeriesConv, "shortcut": FrozenConv, "norm": "own"},
    "parallel_adapters": {"conv": ParallelConv, "shortcut": FrozenConv, "norm": "own"},
    "deep_adaptation": {"conv": CombinedConv, "shortcut": CombinedConv, "norm": "own"},
    "piggyback": {"conv": MaskedConv, "shortcut": MaskedConv, "norm": "own"},
}

DTYPES = ("float32", "bfloat16", "float16")


def build_model(
    config: ml_collections.ConfigDict, tasks: tuple[Task, ...], axis_name: str | None = None, groups: int = 1
) -> nn.Module:
    """Makes a network from its configuration.

    Args:
        config: `config.model`: `arch`, `backbone`, `width` (multiplies every channel count but the heads' outputs),
            `dtype` (of the computation), `param_dtype`, `sync_batch_norm`.
        tasks: one head each, and what else the architecture has for each.
        axis_name: the axis of devices, for BatchNorm that is synchronised over them.
        groups: tasks in a batch of training, where each image belongs to one.

    Returns:
        A module with `apply(variables, image [b,h,w,3], train=...) -> {task name: prediction [b,h,w,channels]}`; on a
        backbone of `IMAGE_BACKBONES` `apply(variables, image, train=..., tasks=[b]) -> {task name: [b,channels]}`.

    Raises:
        ValueError: for an unknown name, a pair that does not exist (the message lists those that do), or a width that
            leaves nothing.
    """
    tasks = tuple(tasks)
    backbone = build_backbone(config, axis_name, tuple(task.name for task in tasks))
    if config.backbone in IMAGE_BACKBONES:
        return ManyToMany(backbone, tasks, attention=config.arch == "mtan", groups=groups)
    return ARCHITECTURES[config.arch](backbone, tasks)


def build_backbone(
    config: ml_collections.ConfigDict, axis_name: str | None = None, tasks: tuple[str, ...] = ()
) -> Backbone:
    """The backbone of `build_model`; arguments and errors are the same, and tasks are given by name."""
    _known("arch", config.arch, ARCHITECTURES | IMAGE_ARCHITECTURES)
    _known("backbone", config.backbone, BACKBONES | IMAGE_BACKBONES)
    if (config.arch, config.backbone) not in pairs():
        raise ValueError(
            f"config.model.arch = {config.arch!r} does not exist on config.model.backbone = {config.backbone!r}; "
            f"pairs that do: {', '.join(f'{arch} on {backbone}' for arch, backbone in pairs())}"
        )
    if not config.width > 0:
        raise ValueError(f"config.model.width = {config.width}: it multiplies channel counts, so it must be above 0")
    numerics = Numerics(
        axis_name if config.sync_batch_norm else None,
        jnp.dtype(_known("dtype", config.dtype, DTYPES)),
        jnp.dtype(_known("param_dtype", config.param_dtype, DTYPES)),
    )
    if config.backbone in IMAGE_BACKBONES:
        layers = Layers(tasks, numerics, **IMAGE_ARCHITECTURES[config.arch])
        return IMAGE_BACKBONES[config.backbone](config.width, layers)
    return VARIANTS.get(config.arch, BACKBONES)[config.backbone](config.width, numerics)


def pairs() -> list[tuple[str, str]]:
    """Every architecture with every backbone on which it exists."""
    dense = [(arch, backbone) for arch in ARCHITECTURES for backbone in VARIANTS.get(arch, BACKBONES)]
    return dense + [(arch, backbone) for arch in IMAGE_ARCHITECTURES for backbone in IMAGE_BACKBONES]


def _known(field: str, name: str, known: Any) -> str:
    if name not in known:
        raise ValueError(f"config.model.{field} = {name!r} is not known; known: {', '.join(sorted(known))}")
    return name
