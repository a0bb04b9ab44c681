"""Grids: the runs of a sweep, named after what differs between them."""

import dataclasses
import itertools
import os
import pathlib
import re
import runpy
import traceback
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from mtan_jax.runtime import paths

Value: TypeAlias = str | float | bool | Sequence["Value"] | Mapping[str, "Value"]

LONGEST_NAME = 200  # bytes; file systems allow 255
_NOT_IN_NAMES = re.compile(r"[^\w.+=,-]+")


class GridError(ValueError):
    """The grid cannot be used; the message names the file, the run or the field."""


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: a configuration with some fields changed.

    Attributes:
        config: as in `--config`: a name or a path, and ':' with arguments, such as "streets:smoke".
        overrides: values by dotted name of the field, such as {"model.arch": "mtan", "seed": 1}. A mapping sets the
            fields below it.
        name: of the folder of the run; None: named after the fields that differ in the grid.

    Example:
        >>> SweepRun("streets", {"weighting": "dwa", "weighting_options.dwa": {"temperature": 1.0}}).fields
        {'weighting': 'dwa', 'weighting_options.dwa.temperature': 1.0}
    """

    config: str
    overrides: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    name: str | None = None

    @property
    def fields(self) -> dict[str, Value]:
        """The overrides with one entry per field."""
        return flatten(self.overrides)


def product(config: str, fields: Mapping[str, Sequence[Value]]) -> list[SweepRun]:
    """All combinations of values; the last field varies fastest.

    Args:
        config: as in `SweepRun`.
        fields: values to try, by dotted name of the field.

    Raises:
        GridError: the values of a field are a string, or there are none.

    Example:
        >>> len(product("streets", {"weighting": ["equal", "dwa"], "seed": range(3)}))
        6
    """
    for field, values in fields.items():
        if isinstance(values, str) or not len(values):
            raise GridError(f"product: the values of {field!r} are {values!r}; expected a list, such as [{values!r}]")
    combinations = itertools.product(*fields.values())
    return [SweepRun(config, dict(zip(fields, values, strict=True))) for values in combinations]


def load_grid(text: str) -> list[SweepRun]:
    """Loads the runs of a grid file, named.

    Args:
        text: path of a Python file that defines `get_runs(arg=None)`. Text after ':' is passed to `get_runs`.

    Raises:
        GridError: there is no such file, it fails or defines no grid, or two runs have the same name.
    """
    paths.check_local(text, "--grid")
    name, colon, argument = text.partition(":")
    path = paths.local(name, "--grid")
    if not path.is_file():
        raise GridError(f"--grid={text}: there is no file {path}; a grid is a Python file that defines get_runs()")
    try:
        get_runs = runpy.run_path(str(path)).get("get_runs")
        if not callable(get_runs):
            raise GridError(f"{path} defines no function get_runs; a grid file needs one that returns a list of runs")
        runs = get_runs(argument) if colon else get_runs()
    except GridError:
        raise
    except Exception as error:  # a grid is a program: it may raise anything
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        raise GridError(f"{place}: {type(error).__name__}: {error}") from error
    return name_runs(runs, str(path))


def name_runs(runs: Sequence[SweepRun], source: str = "the grid") -> list[SweepRun]:
    """Names the runs that have no name after the fields that differ between the runs.

    A field is shortened to the last parts of its dotted name, as many as distinguish it from the other fields.

    Args:
        runs: of a grid.
        source: of the grid, for messages.

    Raises:
        GridError: there are no runs, an item is not a `SweepRun`, or two runs have the same name.
    """
    if not isinstance(runs, Sequence) or not runs or not all(isinstance(run, SweepRun) for run in runs):
        raise GridError(f"{source}: expected a list of mtan_jax.sweep.SweepRun, found {_describe(runs)}")
    settings = [{"config": run.config, **run.fields} for run in runs]
    fields = dict.fromkeys(itertools.chain.from_iterable(settings))
    differing = [name for name in fields if any(each.get(name) != settings[0].get(name) for each in settings)]
    short = dict(zip(differing, shorten(differing), strict=True))
    named = []
    for run, values in zip(runs, settings, strict=True):
        parts = [f"{short[name]}={_text(values[name])}" for name in differing if name in values]
        found = run.name if run.name is not None else ",".join(parts) or pathlib.Path(run.config.split(":")[0]).stem
        named.append(dataclasses.replace(run, name=_checked(found, source)))
    names = [run.name for run in named]
    if twice := sorted({name for name in names if name is not None and names.count(name) > 1}):
        raise GridError(f"{source}: several runs are named {twice[0]!r}; change one of their fields, or set `name`")
    return named


def shorten(names: Sequence[str]) -> list[str]:
    """Shortens dotted names to their last parts, as many as distinguish them.

    Example:
        >>> shorten(["model.arch", "seed", "static.weights.depth", "schedule.weights.depth"])
        ['arch', 'seed', 'static.weights.depth', 'schedule.weights.depth']
    """
    shortened = []
    for name in names:
        parts = name.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        others = [f".{other}" for other in names if other != name]
        shortened.append(next(end for end in ends if end == name or not any(o.endswith(f".{end}") for o in others)))
    return shortened


def flatten(overrides: Mapping[str, Value], prefix: str = "") -> dict[str, Value]:
    """Flattens nested mappings to values by dotted name; lists become tuples, as in configurations."""
    fields: dict[str, Value] = {}
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            fields |= flatten(value, f"{prefix}{key}.")
        else:
            fields[f"{prefix}{key}"] = _tuples(value)
    return fields


def _tuples(value: Value) -> Value:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _text(value: Value) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "+".join(map(_text, value))
    return os.path.splitext(os.path.basename(value))[0] if isinstance(value, str) and ".py" in value else str(value)


def _checked(name: str, source: str) -> str:
    """A name for a folder. Raises a GridError if it cannot be one."""
    name = _NOT_IN_NAMES.sub("-", name).strip("-")
    if not name.strip("."):
        raise GridError(f"{source}: a run has an empty name; set `name`")
    if len(name.encode()) > LONGEST_NAME:
        raise GridError(f"{source}: the name {name!r} is too long for a folder; set `name`")
    return name


def _describe(runs: object) -> str:
    if isinstance(runs, Sequence):
        wrong = [type(run).__name__ for run in runs if not isinstance(run, SweepRun)]
        return f"a list that contains {wrong[0]}" if wrong else "an empty list"
    return type(runs).__name__
