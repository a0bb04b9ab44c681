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
from mtan_jax.models.cross_stitch import CrossStitch
from mtan_jax.models.dense import Dense
from mtan_jax.models.heads import Head
from mtan_jax.models.layers import Numerics
from mtan_jax.models.mtan import MTAN
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

DTYPES = ("float32", "bfloat16", "float16")


def build_model(config: ml_collections.ConfigDict, tasks: tuple[Task, ...], axis_name: str | None = None) -> nn.Module:
    """Makes a network from its configuration.

    Args:
        config: `config.model`: `arch`, `backbone`, `width` (multiplies every channel count but the heads' outputs),
            `dtype` (of the computation), `param_dtype`, `sync_batch_norm`.
        tasks: one head each, and what else the architecture has for each.
        axis_name: the axis of devices, for BatchNorm that is synchronised over them.

    Returns:
        A module with `apply(variables, image [b,h,w,3], train=...) -> {task name: prediction [b,h,w,channels]}`.

    Raises:
        ValueError: for an unknown name, a pair that does not exist (the message lists those that do), or a width that
            leaves nothing.
    """
    architecture = ARCHITECTURES[_known("arch", config.arch, ARCHITECTURES)]
    return architecture(build_backbone(config, axis_name), tuple(tasks))


def build_backbone(config: ml_collections.ConfigDict, axis_name: str | None = None) -> Backbone:
    """The backbone of `build_model`; arguments and errors are the same."""
    _known("arch", config.arch, ARCHITECTURES)
    _known("backbone", config.backbone, BACKBONES)
    backbones = VARIANTS.get(config.arch, BACKBONES)
    if config.backbone not in backbones:
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
    return backbones[config.backbone](config.width, numerics)


def pairs() -> list[tuple[str, str]]:
    """Every architecture with every backbone on which it exists."""
    return [(arch, backbone) for arch in ARCHITECTURES for backbone in VARIANTS.get(arch, BACKBONES)]


def _known(field: str, name: str, known: Any) -> str:
    if name not in known:
        raise ValueError(f"config.model.{field} = {name!r} is not known; known: {', '.join(sorted(known))}")
    return name
