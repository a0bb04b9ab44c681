"""The weighting methods by name, and the chains built from them."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import jax
import optax

from mtan_jax.types import Options
from mtan_jax.weighting.balancers.cosmos import cosmos
from mtan_jax.weighting.balancers.dtp import dtp
from mtan_jax.weighting.balancers.dwa import dwa
from mtan_jax.weighting.balancers.equal import equal
from mtan_jax.weighting.balancers.geometric import geometric
from mtan_jax.weighting.balancers.go4align import go4align
from mtan_jax.weighting.balancers.hypervolume import hypervolume
from mtan_jax.weighting.balancers.imtl_l import imtl_l
from mtan_jax.weighting.balancers.ldc_mtl import ldc_mtl
from mtan_jax.weighting.balancers.pbi import pbi
from mtan_jax.weighting.balancers.relobralo import relobralo
from mtan_jax.weighting.balancers.rlw import rlw
from mtan_jax.weighting.balancers.scale_invariant import scale_invariant
from mtan_jax.weighting.balancers.schedule import schedule
from mtan_jax.weighting.balancers.softadapt import softadapt
from mtan_jax.weighting.balancers.static import static
from mtan_jax.weighting.balancers.stch import stch
from mtan_jax.weighting.balancers.uncertainty import uncertainty
from mtan_jax.weighting.core import sum_tasks
from mtan_jax.weighting.declaration import Kind, Method, Needs, declaration_of
from mtan_jax.weighting.gradient_methods.aligned_mtl import aligned_mtl
from mtan_jax.weighting.gradient_methods.cagrad import cagrad
from mtan_jax.weighting.gradient_methods.conflict_free import conflict_free
from mtan_jax.weighting.gradient_methods.cr_mogm import cr_mogm
from mtan_jax.weighting.gradient_methods.db_mtl import db_mtl
from mtan_jax.weighting.gradient_methods.dualproj import dualproj
from mtan_jax.weighting.gradient_methods.epo import epo
from mtan_jax.weighting.gradient_methods.excess_mtl import excess_mtl
from mtan_jax.weighting.gradient_methods.fairgrad import fairgrad
from mtan_jax.weighting.gradient_methods.forum import forum
from mtan_jax.weighting.gradient_methods.graddrop import graddrop
from mtan_jax.weighting.gradient_methods.gradnorm import gradnorm
from mtan_jax.weighting.gradient_methods.gradvac import gradvac
from mtan_jax.weighting.gradient_methods.imtl_g import imtl_g
from mtan_jax.weighting.gradient_methods.krum import krum
from mtan_jax.weighting.gradient_methods.mgda import mgda
from mtan_jax.weighting.gradient_methods.moco import moco
from mtan_jax.weighting.gradient_methods.nash_mtl import nash_mtl
from mtan_jax.weighting.gradient_methods.pcgrad import pcgrad
from mtan_jax.weighting.gradient_methods.sdmgrad import sdmgrad
from mtan_jax.weighting.gradient_methods.trimmed_mean import trimmed_mean
from mtan_jax.weighting.gradient_methods.upgrad import upgrad
from mtan_jax.weighting.wrappers.auto_lambda import auto_lambda
from mtan_jax.weighting.wrappers.famo import famo
from mtan_jax.weighting.wrappers.modo import modo
from mtan_jax.weighting.wrappers.moml import moml
from mtan_jax.weighting.wrappers.telemetry import telemetry

# Every method by the name that a configuration uses. Add your own here; `declare` states its kind.
METHODS: dict[str, Method] = {
    "cosmos": cosmos,
    "dtp": dtp,
    "dwa": dwa,
    "equal": equal,
    "geometric": geometric,
    "hypervolume": hypervolume,
    "imtl_l": imtl_l,
    "pbi": pbi,
    "relobralo": relobralo,
    "go4align": go4align,
    "ldc_mtl": ldc_mtl,
    "rlw": rlw,
    "scale_invariant": scale_invariant,
    "schedule": schedule,
    "softadapt": softadapt,
    "static": static,
    "stch": stch,
    "uncertainty": uncertainty,
    "aligned_mtl": aligned_mtl,
    "cagrad": cagrad,
    "conflict_free": conflict_free,
    "cr_mogm": cr_mogm,
    "db_mtl": db_mtl,
    "dualproj": dualproj,
    "epo": epo,
    "excess_mtl": excess_mtl,
    "fairgrad": fairgrad,
    "forum": forum,
    "graddrop": graddrop,
    "gradnorm": gradnorm,
    "gradvac": gradvac,
    "imtl_g": imtl_g,
    "krum": krum,
    "mgda": mgda,
    "moco": moco,
    "nash_mtl": nash_mtl,
    "pcgrad": pcgrad,
    "sdmgrad": sdmgrad,
    "trimmed_mean": trimmed_mean,
    "upgrad": upgrad,
    "auto_lambda": auto_lambda,
    "famo": famo,
    "telemetry": telemetry,
    "modo": modo,
    "moml": moml,
}


def _built_in(kind: Kind) -> dict[str, Method]:
    declared = {name: declaration_of(method) for name, method in METHODS.items()}
    return {name: METHODS[name] for name, found in declared.items() if found is not None and found.kind == kind}


# The built-in methods by kind; what is added to `METHODS` later is not in these.
BALANCERS = _built_in("balancer")
GRADIENT_METHODS = _built_in("gradient_method")
WRAPPERS = _built_in("wrapper")

# A method by its name in `METHODS`, or the function itself.
NameOrMethod: TypeAlias = str | Method
Spec: TypeAlias = str | Sequence[NameOrMethod | tuple[NameOrMethod, Options]]

_NOTHING: Mapping[str, Options] = MappingProxyType({})
_NO_DEFAULTS: Options = MappingProxyType({})


class _Chosen(NamedTuple):
    """One method of a spec, with the options that the spec gives it."""

    name: str
    method: Method
    options: Options


def build_weighting(
    spec: Spec,
    tasks: Sequence[str],
    optimizer: optax.GradientTransformation,
    *,
    options: Mapping[str, Options] = _NOTHING,
    defaults: Options = _NO_DEFAULTS,
) -> optax.GradientTransformationExtraArgs:
    """Builds the chain from task gradients to parameter updates.

    Args:
        spec: names in `METHODS` joined by "+", in the order in which they act, such as "dwa", "static+dwa" or
            "dwa+pcgrad". Or a sequence of methods with their options, `(("dwa", {"temperature": 2.0}), "pcgrad")`, in
            which a function may stand in place of a name.
        tasks: task names.
        optimizer: the transformation that follows the backward pass. It is an argument because a wrapper wraps it.
        options: options per method name. Options in `spec` take precedence. Options of methods that `spec` does not
            name are checked but not used.
        defaults: options that follow from the run, such as `steps_per_epoch` and `learning_rate`. Each method receives
            those that it accepts and that neither `spec` nor `options` sets.

    Returns:
        `optax.chain(method, ..., sum_tasks(tasks), optimizer)`, without `sum_tasks` if the last method is a gradient
        method. Its `update` takes `TaskGradients`.

    Raises:
        ValueError: unknown or repeated method, unknown or missing option, an option out of range, or a gradient method
            that is not the last.

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
    chosen = _parse(spec, options)
    factories = [_with_options(one, defaults) for one in chosen]
    kinds = [_kind_of(one, factory, tasks) for one, factory in zip(chosen, factories, strict=True)]
    if "gradient_method" in kinds[:-1]:
        name = chosen[kinds.index("gradient_method")].name
        raise ValueError(f"weighting {spec!r}: {name} turns the losses into a gradient, so it must come last")
    rest: list[optax.GradientTransformation] = [optimizer]
    if kinds[-1] != "gradient_method":
        rest.insert(0, sum_tasks(tasks))
    for kind, factory in zip(reversed(kinds), reversed(factories), strict=True):
        rest = [factory(tasks, optax.chain(*rest))] if kind == "wrapper" else [factory(tasks), *rest]
    return optax.chain(*rest)


def needs_of(spec: Spec, *, options: Mapping[str, Options] = _NOTHING) -> Needs:
    """The needs of the chain that `build_weighting` builds from the same arguments."""
    needs = [_needs_of(one) for one in _parse(spec, options)]
    return Needs(*(any(column) for column in zip(*needs, strict=True)))


def _needs_of(chosen: _Chosen) -> Needs:
    declaration = declaration_of(chosen.method)
    needs = Needs(False, False, False) if declaration is None else declaration.needs
    wrt = _options_of(chosen.method).get("wrt")
    if wrt is not None and chosen.options.get("wrt", wrt.default) == "features":
        needs = needs._replace(features=True)
    return needs


def _parse(spec: Spec, options: Mapping[str, Options]) -> list[_Chosen]:
    """The methods of a spec, each with its options."""
    found = []
    for item in spec.split("+") if isinstance(spec, str) else spec:
        method, given = item, {}
        if isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[1], Mapping):
            method, given = item[0], dict(item[1])
        if isinstance(method, str):
            name = method.strip()
            if name not in METHODS:
                raise ValueError(f"unknown weighting {name!r} in {spec!r}; known: {', '.join(METHODS)}")
            method = METHODS[name]
        elif callable(method):
            name = getattr(method, "__name__", type(method).__name__)
        else:
            raise ValueError(
                f"weighting {item!r} is not a method; use a name, a function, or a pair (name or function, options)"
            )
        found.append(_Chosen(name, method, dict(options.get(name, {})) | given))
    if not found:
        raise ValueError(f"weighting {spec!r} names no method; use 'equal' for the plain sum of the losses")
    if len({one.method for one in found}) != len(found):
        raise ValueError(f"weighting {spec!r} repeats a method; use each method once")
    return found


def _with_options(chosen: _Chosen, defaults: Options) -> Method:
    """The method with its options, and with those defaults that it accepts."""
    _check_options(chosen.name, chosen.method, chosen.options)
    known = _options_of(chosen.method)
    given = {key: value for key, value in defaults.items() if key in known} | dict(chosen.options)
    if given.get("wrt") == "features" and "shared" not in chosen.options:
        given.pop("shared", None)  # has no meaning for features
    missing = [key for key, parameter in known.items() if parameter.default is parameter.empty and key not in given]
    if missing:
        raise ValueError(f"weighting {chosen.name!r} needs the option {', '.join(missing)}")
    return functools.partial(chosen.method, **given)


def _kind_of(chosen: _Chosen, factory: Method, tasks: Sequence[str]) -> Kind:
    """The declared kind; without a declaration, a gradient method is recognized by its state."""
    declaration = declaration_of(chosen.method)
    if declaration is not None:
        return declaration.kind
    parameters = inspect.signature(chosen.method).parameters.values()
    if sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) > 1:
        raise ValueError(
            f"weighting {chosen.name!r} has several positional parameters: declare a method that wraps the rest of the "
            'chain with @declare("wrapper"), and make options keyword-only'
        )
    # By contract, exactly the transformations that return a gradient keep `task_weights` in their state.
    state = jax.eval_shape(factory(tasks).init, {})
    return "gradient_method" if optax.tree_utils.tree_get_all_with_path(state, "task_weights") else "balancer"


def _options_of(method: Method) -> dict[str, inspect.Parameter]:
    """The options of a method: its keyword-only parameters."""
    parameters = inspect.signature(method).parameters
    return {key: value for key, value in parameters.items() if value.kind is value.KEYWORD_ONLY}


def _check_options(name: str, method: Method, options: Options) -> None:
    known = _options_of(method)
    for key in options:
        if key not in known:
            raise ValueError(f"unknown option {key!r} of weighting {name!r}; known: {', '.join(known) or 'none'}")
