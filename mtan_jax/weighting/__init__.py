"""Weighting methods, by name, as optax transformations over task gradients."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import optax

from mtan_jax.weighting.aligned_mtl import aligned_mtl
from mtan_jax.weighting.cagrad import cagrad
from mtan_jax.weighting.core import SumTasksState, TaskGradients, sum_tasks, task_weights
from mtan_jax.weighting.dualproj import dualproj
from mtan_jax.weighting.dwa import dwa
from mtan_jax.weighting.equal import equal
from mtan_jax.weighting.fairgrad import fairgrad
from mtan_jax.weighting.geometric import geometric
from mtan_jax.weighting.gradvac import gradvac
from mtan_jax.weighting.imtl_g import imtl_g
from mtan_jax.weighting.mgda import mgda
from mtan_jax.weighting.nash_mtl import nash_mtl
from mtan_jax.weighting.pcgrad import pcgrad
from mtan_jax.weighting.rlw import rlw
from mtan_jax.weighting.scale_invariant import scale_invariant
from mtan_jax.weighting.schedule import schedule
from mtan_jax.weighting.static import static
from mtan_jax.weighting.stch import stch
from mtan_jax.weighting.uncertainty import uncertainty
from mtan_jax.weighting.upgrad import upgrad

__all__ = [
    "BALANCERS",
    "GRADIENT_METHODS",
    "METHODS",
    "SumTasksState",
    "TaskGradients",
    "aligned_mtl",
    "build_weighting",
    "cagrad",
    "dualproj",
    "dwa",
    "equal",
    "fairgrad",
    "geometric",
    "gradvac",
    "imtl_g",
    "mgda",
    "nash_mtl",
    "pcgrad",
    "rlw",
    "scale_invariant",
    "schedule",
    "static",
    "stch",
    "sum_tasks",
    "task_weights",
    "uncertainty",
    "upgrad",
]

Method = Callable[..., optax.GradientTransformationExtraArgs]  # called as method(tasks, **options)

# Those that weigh the losses: one backward pass.
BALANCERS: dict[str, Method] = {
    "dwa": dwa,
    "equal": equal,
    "geometric": geometric,
    "rlw": rlw,
    "scale_invariant": scale_invariant,
    "schedule": schedule,
    "static": static,
    "stch": stch,
    "uncertainty": uncertainty,
}

# Those that combine the gradients of single tasks: one backward pass a task. They come last.
GRADIENT_METHODS: dict[str, Method] = {
    "aligned_mtl": aligned_mtl,
    "cagrad": cagrad,
    "dualproj": dualproj,
    "fairgrad": fairgrad,
    "gradvac": gradvac,
    "imtl_g": imtl_g,
    "mgda": mgda,
    "nash_mtl": nash_mtl,
    "pcgrad": pcgrad,
    "upgrad": upgrad,
}

METHODS: dict[str, Method] = BALANCERS | GRADIENT_METHODS

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def build_weighting(
    spec: str,
    tasks: Sequence[str],
    optimizer: optax.GradientTransformation,
    *,
    options: Mapping[str, Mapping[str, Any]] = _NOTHING,
    defaults: Mapping[str, Any] = _NOTHING,
) -> optax.GradientTransformationExtraArgs:
    """The whole chain from task gradients to parameter updates.

    Args:
        spec: names of `METHODS` joined by "+", in the order in which they act, such as "dwa", "static+dwa" or
            "dwa+pcgrad".
        tasks: names, in the order of the losses.
        optimizer: what follows the backward pass. It is part of the chain because a method may wrap all that follows.
        options: by method name, the options of that method. Those of methods that `spec` leaves out are checked, not
            used.
        defaults: options that follow from the run, such as `steps_per_epoch` and `learning_rate`. Each method takes
            those that it knows and that `options` leaves open.

    Returns:
        `optax.chain(method, ..., sum_tasks(tasks), optimizer)`, or without `sum_tasks` where the last method is one of
        `GRADIENT_METHODS`. Its updates are `TaskGradients`.

    Raises:
        ValueError: unknown or repeated method, unknown or missing option, or an option that the method refuses.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import build_weighting
        >>> tx = build_weighting(
        ...     "static+dwa",
        ...     ("semantic", "depth"),
        ...     optax.adam(1e-4),
        ...     options={"static": {"weights": {"semantic": 1.0, "depth": 10.0}}, "dwa": {"temperature": 1.0}},
        ...     defaults={"steps_per_epoch": 372},
        ... )
    """
    names = [name.strip() for name in spec.split("+")]
    for name in (*names, *options):
        if name not in METHODS:
            raise ValueError(f"unknown weighting {name!r} in {spec!r} or its options; known: {', '.join(METHODS)}")
    if len(set(names)) != len(names):
        raise ValueError(f"weighting {spec!r}: each method once")
    for name in names[:-1]:
        if name in GRADIENT_METHODS:
            raise ValueError(f"weighting {spec!r}: {name} gives a gradient, so it must be the last")
    for name in options:
        _check_options(name, options[name])
    methods = []
    for name in names:
        known = _parameters(name)
        chosen = {key: value for key, value in defaults.items() if key in known} | dict(options.get(name, {}))
        missing = [
            key for key, parameter in known.items() if parameter.default is parameter.empty and key not in chosen
        ]
        if missing:
            raise ValueError(f"weighting {name!r} needs the option {', '.join(missing)}")
        methods.append(METHODS[name](tasks, **chosen))
    if names[-1] not in GRADIENT_METHODS:
        methods.append(sum_tasks(tasks))
    return optax.chain(*methods, optimizer)


def _parameters(name: str) -> dict[str, inspect.Parameter]:
    """The options of a method: its keyword-only parameters."""
    parameters = inspect.signature(METHODS[name]).parameters
    return {key: value for key, value in parameters.items() if value.kind is value.KEYWORD_ONLY}


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    known = _parameters(name)
    for key in options:
        if key not in known:
            raise ValueError(f"unknown option {key!r} of weighting {name!r}; known: {', '.join(known) or 'none'}")
