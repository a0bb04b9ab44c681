"""Writes a configuration as flat JSON, so that two configurations can be compared field by field."""

import functools
import inspect
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
import ml_collections
import numpy as np
from numpy.typing import ArrayLike

from mtan_jax.weighting.balancers.schedule import in_order

Json: TypeAlias = bool | int | float | str | list["Json"] | None
Function: TypeAlias = Callable[..., Any]  # a schedule returns numbers, another option whatever its method reads

# The steps at which schedules are sampled: about every 10 %, up to a million steps.
SAMPLED_STEPS = tuple(sorted({0, *(round(1.1**i) for i in range(146))}))
_AT_STEP = " at step "


def flatten_config(config: ml_collections.ConfigDict) -> dict[str, Json]:
    """Flattens a configuration to JSON values by dotted field name.

    A schedule is recorded as its values at `SAMPLED_STEPS`, because its name does not distinguish two schedules of one
    kind. A schedule of step and losses is sampled with losses that fall from 10 to 0.01 over the steps. Any other
    function is recorded as its name and a checksum of its source, which covers neither the functions that it calls nor
    the values that it closes over.
    """
    return _flatten("", config, tuple(getattr(task, "name", task) for task in config.tasks))


def is_same(name: str, ours: Json, theirs: Json) -> bool:
    """Whether two configurations agree in a field; sampled schedules agree up to rounding."""
    if name == "data.options.layout" and "auto" in (ours, theirs):
        return True  # the layout that was found is in `data.json`
    if _AT_STEP not in name or ours is None or theirs is None:
        return ours == theirs
    one, other = np.array(ours), np.array(theirs)
    if one.shape != other.shape:
        return False
    return np.allclose(one, other, rtol=1e-4, atol=1e-7, equal_nan=True)  # devices round differently


def _flatten(name: str, value: object, tasks: tuple[str, ...]) -> dict[str, Json]:
    fields: dict[str, Json] = {}
    if isinstance(value, ml_collections.ConfigDict | Mapping):
        for key in value:
            item, path = value.get(key), f"{name}.{key}" if name else key
            fields |= _sample(path, item, tasks) if callable(item) else _flatten(path, item, tasks)
    elif isinstance(value, tuple | list) and _has_options(value):
        for i, item in enumerate(value):
            fields |= _flatten(f"{name}[{i}]", item, tasks)
    else:
        fields[name] = _to_json(value)
    return fields


def _has_options(value: object) -> bool:
    """Whether a nested sequence contains a mapping or a function."""
    if isinstance(value, tuple | list):
        return any(map(_has_options, value))
    return callable(value) or isinstance(value, ml_collections.ConfigDict | Mapping)


def _sample(name: str, function: Function, tasks: tuple[str, ...]) -> dict[str, Json]:
    """The sampled values of a schedule, or the description of any other function."""
    try:
        if _accepts(function, 1):
            steps = {f"{name}{_AT_STEP}{step}": function(jnp.asarray(step, jnp.int32)) for step in SAMPLED_STEPS}
            return {key: _round(np.asarray(value)) for key, value in steps.items()}
        return _sample_with_losses(name, function, tasks)
    except Exception:  # it takes other arguments, such as a parameter's path, or has an error that training reports
        return {name: _describe(function)}


def _sample_with_losses(name: str, function: Function, tasks: tuple[str, ...]) -> dict[str, Json]:
    values: dict[str, Json] = {}
    for step in SAMPLED_STEPS:
        # Rounded, so that the losses are exactly those in the field's name.
        falling = [_round(10 / (1 + i) / math.sqrt(1 + step), 3) for i in range(len(tasks))]
        for losses in (falling, falling[::-1]):  # a schedule may depend on their order
            weights = in_order(tasks, function(jnp.asarray(step, jnp.int32), jnp.array(losses, jnp.float32)))
            values[f"{name}{_AT_STEP}{step}, losses {losses}"] = [_round(weight) for weight in np.asarray(weights)]
    return values


def _round(number: ArrayLike, digits: int = 7) -> float:
    """Rounds to significant digits; float32 has at most 7."""
    return float(f"{float(np.asarray(number)):.{digits}g}")


def _accepts(function: Function, count: int) -> bool:
    """Whether a function can be called with `count` positional arguments."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # some functions written in C have no signature
        return True
    return True


def _describe(function: Function) -> str:
    if isinstance(function, functools.partial):
        return f"{_describe(function.func)} with {_to_json(function.args)} {_to_json([*function.keywords.items()])}"
    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # defined in C or by eval
        return name
    return f"{name}, source {zlib.crc32(source.encode()):08x}"


def _to_json(value: object) -> Json:
    if isinstance(value, tuple | list):
        return [_to_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if callable(value):
        return _describe(value)
    return getattr(value, "name", None) or str(value)
