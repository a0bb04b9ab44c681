"""Networks: `build_model` makes any pair of architecture and backbone from `config.model`."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import ml_collections
from flax import linen as nn

from mtan_jax.models.backbones import segnet
from mtan_jax.models.mtan import MTAN
from mtan_jax.tasks import Task

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"mtan": MTAN}
BACKBONES: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {"segnet": (segnet.SegNet, segnet.WIDTHS)}
DTYPES = ("float32", "bfloat16", "float16")


def build_model(config: ml_collections.ConfigDict, tasks: tuple[Task, ...], axis_name: str | None = None) -> nn.Module:
    """Makes a network from its configuration.

    Args:
        config: `config.model`: `arch`, `backbone`, `width` (multiplies every channel count but the heads' outputs),
            `dtype` (of the computation), `param_dtype`, `sync_batch_norm`.
        tasks: one head and one attention module each.
        axis_name: the axis of devices, for BatchNorm that is synchronised over them.

    Returns:
        A module with `apply(variables, image [b,h,w,3], train=...) -> {task name: prediction [b,h,w,channels]}`.

    Raises:
        ValueError: for an unknown name, or a width that leaves nothing.
    """
    architecture = ARCHITECTURES[_known("arch", config.arch, ARCHITECTURES)]
    backbone, widths = BACKBONES[_known("backbone", config.backbone, BACKBONES)]
    numerics: dict[str, Any] = {
        "axis_name": axis_name if config.sync_batch_norm else None,
        "dtype": jnp.dtype(_known("dtype", config.dtype, DTYPES)),
        "param_dtype": jnp.dtype(_known("param_dtype", config.param_dtype, DTYPES)),
    }
    if not config.width > 0:
        raise ValueError(f"config.model.width = {config.width}: it multiplies channel counts, so it must be above 0")
    scaled = tuple(max(round(width * config.width), 1) for width in widths)
    return architecture(backbone=backbone(scaled, **numerics), tasks=tuple(tasks), **numerics)


def _known(field: str, name: str, known: Any) -> str:
    if name not in known:
        raise ValueError(f"config.model.{field} = {name!r} is not known; known: {', '.join(sorted(known))}")
    return name
