"""Weighting methods, by name, as optax transformations over task gradients."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import optax

from mtan_jax.weighting.balancers.dtp import dtp
from mtan_jax.weighting.balancers.dwa import dwa
from mtan_jax.weighting.balancers.equal import equal
from mtan_jax.weighting.balancers.geometric import geometric
from mtan_jax.weighting.balancers.imtl_l import imtl_l
from mtan_jax.weighting.balancers.rlw import rlw
from mtan_jax.weighting.balancers.scale_invariant import scale_invariant
from mtan_jax.weighting.balancers.schedule import schedule
from mtan_jax.weighting.balancers.static import static
from mtan_jax.weighting.balancers.stch import stch
from mtan_jax.weighting.balancers.uncertainty import uncertainty
from mtan_jax.weighting.core import SumTasksState, TaskGradients, balancer, sum_tasks, task_weights
from mtan_jax.weighting.gradient_methods.aligned_mtl import aligned_mtl
from mtan_jax.weighting.gradient_methods.cagrad import cagrad
from mtan_jax.weighting.gradient_methods.conflict_free import conflict_free
from mtan_jax.weighting.gradient_methods.db_mtl import db_mtl
from mtan_jax.weighting.gradient_methods.dualproj import dualproj
from mtan_jax.weighting.gradient_methods.excess_mtl import excess_mtl
from mtan_jax.weighting.gradient_methods.fairgrad import fairgrad
from mtan_jax.weighting.gradient_methods.graddrop import graddrop
from mtan_jax.weighting.gradient_methods.gradnorm import gradnorm
from mtan_jax.weighting.gradient_methods.gradvac import gradvac
from mtan_jax.weighting.gradient_methods.imtl_g import imtl_g
from mtan_jax.weighting.gradient_methods.mgda import mgda
from mtan_jax.weighting.gradient_methods.moco import moco
from mtan_jax.weighting.gradient_methods.nash_mtl import nash_mtl
from mtan_jax.weighting.gradient_methods.pcgrad import pcgrad
from mtan_jax.weighting.gradient_methods.sdmgrad import sdmgrad
from mtan_jax.weighting.gradient_methods.upgrad import upgrad
from mtan_jax.weighting.gradients import Combined, Stack, combined, weighted
from mtan_jax.weighting.wrappers.auto_lambda import auto_lambda
from mtan_jax.weighting.wrappers.famo import famo

__all__ = [
    "BALANCERS",
    "GRADIENT_METHODS",
    "METHODS",
    "WRAPPERS",
    "Combined",
    "Needs",
    "Stack",
    "SumTasksState",
    "TaskGradients",
    "aligned_mtl",
    "auto_lambda",
    "balancer",
    "build_weighting",
    "cagrad",
    "combined",
    "conflict_free",
    "dtp",
    "dualproj",
    "dwa",
    "equal",
    "fairgrad",
    "geometric",
    "gradvac",
    "imtl_g",
    "mgda",
    "nash_mtl",
    "needs_of",
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
    "weighted",
]

Method = Callable[..., optax.GradientTransformationExtraArgs]  # called as method(tasks, **options)

# Those that weigh the losses: one backward pass.
BALANCERS: dict[str, Method] = {
    "dtp": dtp,
    "dwa": dwa,
    "equal": equal,
    "geometric": geometric,
    "imtl_l": imtl_l,
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
    "conflict_free": conflict_free,
    "db_mtl": db_mtl,
    "dualproj": dualproj,
    "excess_mtl": excess_mtl,
    "fairgrad": fairgrad,
    "graddrop": graddrop,
    "gradnorm": gradnorm,
    "gradvac": gradvac,
    "imtl_g": imtl_g,
    "mgda": mgda,
    "moco": moco,
    "nash_mtl": nash_mtl,
    "pcgrad": pcgrad,
    "sdmgrad": sdmgrad,
    "upgrad": upgrad,
}

# Those that look at the losses at other parameters: they wrap all that follows, as method(tasks, inner, **options).
WRAPPERS: dict[str, Method] = {"auto_lambda": auto_lambda, "famo": famo}

METHODS: dict[str, Method] = BALANCERS | GRADIENT_METHODS | WRAPPERS

_NOTHING: Mapping[str, Any] = MappingProxyType({})

Spec = str | Sequence[str | Method | tuple[str | Method, Mapping[str, Any]]]


class Needs(NamedTuple):
    """What a chain needs of the training step besides the losses and their pullback.

    Attributes:
        second_batch: `TaskGradients.second_losses_at`.
        indicators: `TaskGradients.indicators`, of every task.
        features: `TaskGradients.feature_pullback`.
    """

    second_batch: bool
    indicators: bool
    features: bool


def build_weighting(
    spec: Spec,
    tasks: Sequence[str],
    optimizer: optax.GradientTransformation,
    *,
    options: Mapping[str, Mapping[str, Any]] = _NOTHING,
    defaults: Mapping[str, Any] = _NOTHING,
) -> optax.GradientTransformationExtraArgs:
    """The whole chain from task gradients to parameter updates.

    Args:
        spec: names of `METHODS` joined by "+", in the order in which they act, such as "dwa", "static+dwa" or
            "dwa+pcgrad"; or a sequence of methods with their options, `(("dwa", {"temperature": 2.0}), "pcgrad")`, in
            which a function of one's own may stand for a name: it is called as `method(tasks, **options)`.
        tasks: names, in the order of the losses.
        optimizer: what follows the backward pass. It is part of the chain because a method may wrap all that follows.
        options: by method name, the options of that method; those in `spec` come before these. Those of methods that
            `spec` leaves out are checked, not used.
        defaults: options that follow from the run, such as `steps_per_epoch` and `learning_rate`. Each method takes
            those that it knows and that `spec` and `options` leave open.

    Returns:
        `optax.chain(method, ..., sum_tasks(tasks), optimizer)`, or without `sum_tasks` where the last method gives a
        gradient itself. Its updates are `TaskGradients`.

    Raises:
        ValueError: unknown or repeated method, unknown or missing option, or an option that the method refuses.

    Example:
        >>> import optax
        >>> from mtan_jax.weighting import build_weighting
        >>> tx = build_weighting(
        ...     (("static", {"weights": {"semantic": 1.0, "depth": 10.0}}), "dwa"),
        ...     ("semantic", "depth"),
        ...     optax.adam(1e-4),
        ...     options={"dwa": {"temperature": 1.0}},
        ...     defaults={"steps_per_epoch": 372},
        ... )
    """
    for name in options:
        if name not in METHODS:
            raise ValueError(f"unknown weighting {name!r} in the options; known: {', '.join(METHODS)}")
        _check_options(name, METHODS[name], options[name])
    methods = _methods_of(spec)
    makers = [
        _with_options(name, method, dict(options.get(name, {})) | given, defaults) for name, method, given in methods
    ]
    gives_gradient = [
        name not in WRAPPERS and _gives_gradient(name, make(tasks))
        for (name, _, _), make in zip(methods, makers, strict=True)
    ]
    for (name, _, _), gives in zip(methods[:-1], gives_gradient, strict=False):
        if gives:
            raise ValueError(f"weighting {spec!r}: {name} gives a gradient, so it must be the last")
    rest: list[optax.GradientTransformation] = [optimizer] if gives_gradient[-1] else [sum_tasks(tasks), optimizer]
    for (name, _, _), make in zip(reversed(methods), reversed(makers), strict=True):
        rest = [make(tasks, optax.chain(*rest))] if name in WRAPPERS else [make(tasks), *rest]
    return optax.chain(*rest)


def needs_of(spec: Spec, *, options: Mapping[str, Mapping[str, Any]] = _NOTHING) -> Needs:
    """What the chain that `build_weighting` makes of the same arguments needs of the training step."""
    methods = [(name, dict(options.get(name, {})) | given) for name, _, given in _methods_of(spec)]
    return Needs(
        second_batch=any(name == "auto_lambda" for name, _ in methods),
        indicators=any(name == "dtp" for name, _ in methods),
        features=any(chosen.get("wrt") == "features" for _, chosen in methods),
    )


def _methods_of(spec: Spec) -> list[tuple[str, Method, dict[str, Any]]]:
    """Name, factory and options of each method of a spec."""
    found = []
    for item in spec.split("+") if isinstance(spec, str) else spec:
        method: Any = item
        given: Mapping[str, Any] = {}
        if isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[1], Mapping):
            method, given = item
        if isinstance(method, str):
            name = method.strip()
            if name not in METHODS:
                raise ValueError(f"unknown weighting {name!r} in {spec!r}; known: {', '.join(METHODS)}")
            found.append((name, METHODS[name], dict(given)))
        elif callable(method):
            found.append((getattr(method, "__name__", type(method).__name__), method, dict(given)))
        else:
            raise ValueError(f"weighting {item!r}: a method is a name, a function, or (name or function, options)")
    if not found:
        raise ValueError(f"weighting {spec!r}: at least one method is needed")
    if len({method for _, method, _ in found}) != len(found):
        raise ValueError(f"weighting {spec!r}: each method once")
    return found


def _with_options(
    name: str, method: Method, chosen: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """The method with its options and those of the defaults that it knows."""
    _check_options(name, method, chosen)
    known = _parameters(method)
    chosen = {key: value for key, value in defaults.items() if key in known} | dict(chosen)
    missing = [key for key, parameter in known.items() if parameter.default is parameter.empty and key not in chosen]
    if missing:
        raise ValueError(f"weighting {name!r} needs the option {', '.join(missing)}")
    return functools.partial(method, **chosen)


def _gives_gradient(name: str, tx: optax.GradientTransformation) -> bool:
    if name in METHODS:
        return name in GRADIENT_METHODS
    state = jax.eval_shape(tx.init, {})  # a method of one's own: what turns losses into a gradient keeps their weights
    return bool(optax.tree_utils.tree_get_all_with_path(state, "task_weights"))


def _parameters(method: Method) -> dict[str, inspect.Parameter]:
    """The options of a method: its keyword-only parameters."""
    parameters = inspect.signature(method).parameters
    return {key: value for key, value in parameters.items() if value.kind is value.KEYWORD_ONLY}


def _check_options(name: str, method: Method, options: Mapping[str, Any]) -> None:
    known = _parameters(method)
    for key in options:
        if key not in known:
            raise ValueError(f"unknown option {key!r} of weighting {name!r}; known: {', '.join(known) or 'none'}")
