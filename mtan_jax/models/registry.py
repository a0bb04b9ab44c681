"""Makes networks from `config.model`: the names of architectures and backbones, and which pairs exist."""

import functools
from collections.abc import Callable, Collection
from typing import Literal, TypedDict

import jax.numpy as jnp
import ml_collections
from flax import linen as nn

from mtan_jax.models.backbones.resnet import resnet
from mtan_jax.models.backbones.segnet import WIDE, segnet
from mtan_jax.models.backbones.vgg import vgg16
from mtan_jax.models.backbones.wide_resnet import Layers, wide_resnet
from mtan_jax.models.cross_stitch import CrossStitch
from mtan_jax.models.dense import Dense
from mtan_jax.models.layers.task_layers import (
    CombinedConv,
    FrozenConv,
    LowRankConv,
    MaskedConv,
    OwnConv,
    ParallelConv,
    SeriesConv,
    SharedConv,
    TaskConv,
)
from mtan_jax.models.many_to_many import ManyToMany
from mtan_jax.models.mtan import MTAN
from mtan_jax.models.numerics import Numerics
from mtan_jax.models.split import Separate, Split
from mtan_jax.models.stage import Backbone
from mtan_jax.tasks import Task

# name -> function (width, numerics) -> Backbone
BACKBONES: dict[str, Callable[[float, Numerics], Backbone]] = {
    "segnet": segnet,
    "resnet50": functools.partial(resnet, "resnet50"),
    "resnet101": functools.partial(resnet, "resnet101"),
    "vgg16": vgg16,
}

# name -> function (backbone, tasks) -> module
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

# Architectures whose tasks share features, so weighting methods can use gradients with respect to them.
SHARE_FEATURES = ("mtan", "split", "split_wide", "split_deep", "dense")

# Architectures that exist on some backbones only: name -> {backbone: function that makes the backbone, or the variant
# of it that the architecture needs}.
VARIANTS: dict[str, dict[str, Callable[..., Backbone]]] = {
    "split_wide": {"segnet": functools.partial(segnet, widths=WIDE)},
    "split_deep": {"segnet": functools.partial(segnet, depth=2)},
    "dense": {"segnet": segnet},
}

# Backbones of networks in which each image belongs to one task: name -> function (width, layers) -> Backbone
IMAGE_BACKBONES: dict[str, Callable[[float, Layers], Backbone]] = {
    "wrn10_4": functools.partial(wide_resnet, 10),
    "wrn16_4": functools.partial(wide_resnet, 16),
    "wrn28_4": functools.partial(wide_resnet, 28),
}


class LayerKinds(TypedDict):
    """The kinds of layers of a network in which each image belongs to one task: fields of `Layers`."""

    conv: type[TaskConv]
    shortcut: type[TaskConv]
    norm: Literal["shared", "own", "frozen"]


# Architectures on `IMAGE_BACKBONES`: name -> kinds of layers. "mtan" adds attention.
IMAGE_ARCHITECTURES: dict[str, LayerKinds] = {
    "mtan": {"conv": SharedConv, "shortcut": SharedConv, "norm": "shared"},
    "split": {"conv": SharedConv, "shortcut": SharedConv, "norm": "shared"},
    "single": {"conv": OwnConv, "shortcut": OwnConv, "norm": "own"},
    "feature_extraction": {"conv": FrozenConv, "shortcut": FrozenConv, "norm": "frozen"},
    "series_adapters": {"conv": SeriesConv, "shortcut": FrozenConv, "norm": "own"},
    "parallel_adapters": {"conv": ParallelConv, "shortcut": FrozenConv, "norm": "own"},
    "parallel_svd": {"conv": LowRankConv, "shortcut": FrozenConv, "norm": "own"},
    "deep_adaptation": {"conv": CombinedConv, "shortcut": CombinedConv, "norm": "own"},
    "piggyback": {"conv": MaskedConv, "shortcut": MaskedConv, "norm": "own"},
}

# Architectures that name their modules as `mtan_jax.weighting.sharing` says; those that users add may not.
BUILT_IN = frozenset(ARCHITECTURES | IMAGE_ARCHITECTURES)

DTYPES = ("float32", "bfloat16", "float16")


def build_model(
    config: ml_collections.ConfigDict, tasks: tuple[Task, ...], axis_name: str | None = None, groups: int = 1
) -> nn.Module:
    """Makes a network from its configuration.

    Args:
        config: `config.model`: `arch`, `backbone`, `width` (multiplies all channels except the heads' outputs),
            `adapter_rank` (of "parallel_svd"), `dtype` (of the computation), `param_dtype`, `sync_batch_norm`.
        tasks: each gets one head, and the other modules that the architecture has per task.
        axis_name: device axis, for BatchNorm that is synchronized over devices.
        groups: number of tasks in a training batch, where each image belongs to one task.

    Returns:
        A module with `apply(variables, image [b,h,w,3], train=...) -> {task name: prediction [b,h,w,channels]}`. On a
        backbone of `IMAGE_BACKBONES`, `apply(variables, image, train=..., tasks=[b]) -> {task name: [b,channels]}`.

    Raises:
        ValueError: a name is unknown, the pair does not exist (the message lists those that do), or the width or the
            rank of adapters is out of range.
    """
    tasks = tuple(tasks)
    backbone = build_backbone(config, axis_name, tuple(task.name for task in tasks))
    if config.backbone in IMAGE_BACKBONES:
        return ManyToMany(backbone, tasks, attention=config.arch == "mtan", groups=groups)
    return ARCHITECTURES[config.arch](backbone, tasks)


def build_backbone(
    config: ml_collections.ConfigDict, axis_name: str | None = None, tasks: tuple[str, ...] = ()
) -> Backbone:
    """Makes the backbone that `build_model` uses.

    Arguments and errors are those of `build_model`, except that `tasks` holds names and there are no `groups`.
    """
    _check_known("arch", config.arch, ARCHITECTURES | IMAGE_ARCHITECTURES)
    _check_known("backbone", config.backbone, BACKBONES | IMAGE_BACKBONES)
    if (config.arch, config.backbone) not in pairs():
        raise ValueError(
            f"config.model.arch = {config.arch!r} does not exist on config.model.backbone = {config.backbone!r}; "
            f"existing pairs: {', '.join(f'{arch} on {backbone}' for arch, backbone in pairs())}"
        )
    if not config.width > 0:
        raise ValueError(f"config.model.width = {config.width}: it multiplies channel counts, so it must be above 0")
    if not 0 < config.adapter_rank <= 1:
        raise ValueError(
            f"config.model.adapter_rank = {config.adapter_rank}: it is the rank of compressed adapters divided by the "
            "channels of their output, so it must be above 0 and at most 1"
        )
    _check_known("dtype", config.dtype, DTYPES)
    _check_known("param_dtype", config.param_dtype, DTYPES)
    numerics = Numerics(
        axis_name if config.sync_batch_norm else None, jnp.dtype(config.dtype), jnp.dtype(config.param_dtype)
    )
    if config.backbone in IMAGE_BACKBONES:
        kinds = IMAGE_ARCHITECTURES[config.arch]
        conv: Callable[..., TaskConv] = kinds["conv"]
        if issubclass(kinds["conv"], LowRankConv):
            conv = functools.partial(conv, relative_rank=config.adapter_rank)
        layers = Layers(tasks, numerics, conv, kinds["shortcut"], kinds["norm"])
        return IMAGE_BACKBONES[config.backbone](config.width, layers)
    return VARIANTS.get(config.arch, BACKBONES)[config.backbone](config.width, numerics)


def pairs() -> list[tuple[str, str]]:
    """Lists every (architecture, backbone) that exists."""
    dense = [(arch, backbone) for arch in ARCHITECTURES for backbone in VARIANTS.get(arch, BACKBONES)]
    return dense + [(arch, backbone) for arch in IMAGE_ARCHITECTURES for backbone in IMAGE_BACKBONES]


def _check_known(field: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(f"config.model.{field} = {name!r} is not known; known: {', '.join(sorted(known))}")
