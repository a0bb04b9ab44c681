"""The fields of configurations in which runs differ, with short names and readable values."""

import collections
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from mtan_jax.compare.errors import ComparisonError
from mtan_jax.config import FREE_FIELDS

# A new run reads `init_from`; only a resumed one does not.
_READ_BY_NEW_RUNS = ("model.init_from",)
# Fields that decide what is logged, evaluated and stored, but not how a run trains.
_RECORDING = (
    *("checkpoint.best_metric", "checkpoint.every", "checkpoint.keep"),
    *("eval.average_last", "eval.every", "eval.single_task", "log_every"),
)
LEFT_OUT = frozenset({"seed", *FREE_FIELDS, *_RECORDING} - {*_READ_BY_NEW_RUNS})
# The order in names of groups; other fields follow in alphabetical order.
_FIRST = ("data.name", "model.arch", "model.backbone", "model.", "tasks", "weighting", "weighting_options.")
_OPTIONS = "weighting_options."
# Fields that `effective` drops where they have no effect; they are compared among the other runs.
WITHOUT_EFFECT = ("data.options.layout", "eval.batch_size")
_METHOD = re.compile(r"weighting(?:\[(\d+)\])?(?:\[(\d+)\])?(?:\.(.*))?")
_SAMPLED = re.compile(r"(.*) at step (\d+)(?:, losses (.*))?")
_DIGITS = 4  # of sampled schedules, which devices round differently

Config = Mapping[str, Any]


def effective(config: Config, ignored: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a flat configuration on which results depend, apart from the seed.

    The methods in `weighting` become one name, "static+dwa", without `telemetry`, which changes nothing. Options of
    methods that the run does not use are dropped; those of the others are nested below "weighting_options.METHOD.NAME".

    Args:
        config: from `config.json`.
        ignored: names of further fields to leave out, in full or from any dot on.
    """
    methods, options = _weighting(config)
    fields = {
        name: value
        for name, value in config.items()
        if name not in LEFT_OUT and not name.startswith(_OPTIONS) and not _METHOD.fullmatch(name)
    }
    if config.get("eval.protocol") == "exact":
        fields.pop("eval.batch_size", None)  # metrics are over the whole split
    if fields.get("data.options.layout") == "auto":
        del fields["data.options.layout"]  # the layout that was found is in data.json
    fields["weighting"] = "+".join(method for method in methods if method != "telemetry") or "equal"
    fields |= {name: value for name, value in options.items() if name.split(".")[1] in methods}
    return {name: value for name, value in fields.items() if not any(_ends_with(name, each) for each in ignored)}


def _weighting(config: Config) -> tuple[list[str], dict[str, Any]]:
    """The names of the weighting methods, and the options of all methods as nested values."""
    spec = config.get("weighting", "equal")
    names = dict(enumerate(spec.split("+") if isinstance(spec, str) else spec))
    leaves = {name: value for name, value in config.items() if name.startswith(_OPTIONS)}
    own: dict[int, dict[str, Any]] = collections.defaultdict(dict)
    for name, value in config.items():
        match = _METHOD.fullmatch(name)
        if match and match[1] is not None:  # weighting[i], weighting[i][0] or weighting[i][1].OPTION
            if match[3] is None:
                names[int(match[1])] = value
            else:
                own[int(match[1])][match[3]] = value
    methods = [str(name).partition(", source ")[0] for _, name in sorted(names.items())]
    for position, values in own.items():
        given = {f"{_OPTIONS}{methods[position]}.{name}": value for name, value in values.items()}
        replaced = {_option(name) for name in given}
        leaves = {name: value for name, value in leaves.items() if _option(name) not in replaced} | given
    return methods, _nest(leaves)


def _option(name: str) -> str:
    """The part "weighting_options.METHOD.NAME" of a longer name."""
    return ".".join(re.sub(r" at step .*", "", name).split(".")[:3])


def _nest(leaves: Config) -> dict[str, Any]:
    """Collects the keys and the sampled steps of each option of a weighting method in one value."""
    nested: dict[str, Any] = {}
    samples: dict[str, dict[str, Any]] = collections.defaultdict(dict)
    for name, value in leaves.items():
        if match := _SAMPLED.fullmatch(name):
            samples[match[1]][f"{match[2]} {match[3] or ''}"] = value
        else:
            nested[name] = value
    nested |= {name: _Schedule(values) for name, values in samples.items()}
    options: dict[str, Any] = {}
    for name, value in nested.items():
        option = _option(name)
        key = name[len(option) + 1 :]
        if key:
            options.setdefault(option, {})[key] = value
        else:
            options[option] = value
    return options


class _Schedule(tuple):
    """A schedule as its values at `mtan_jax.training.config_record.SAMPLED_STEPS`, rounded."""

    def __new__(cls, values: Mapping[str, Any]) -> "_Schedule":
        return super().__new__(cls, (_round(value) for value in values.values()))


def _round(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_round(each) for each in value)
    return float(f"{value:.{_DIGITS}g}")


def differing(configs: Sequence[Config], defaults: Config) -> list[dict[str, str]]:
    """The fields in which configurations differ, as text.

    Args:
        configs: from `effective`.
        defaults: values of fields that some configurations lack because an older version wrote them.

    Returns:
        For each configuration its fields by full name, in the order in which they are shown. An option of a weighting
        method is compared among the runs that use the method.
    """
    names = sorted({name for config in configs for name in config}, key=_position)
    chosen: list[dict[str, str]] = [{} for _ in configs]
    for name in names:
        may_lack = name.startswith(_OPTIONS) or name in WITHOUT_EFFECT
        owners = [i for i, config in enumerate(configs) if name in config or not may_lack]
        values = [configs[i].get(name, defaults.get(name)) for i in owners]
        keys = [json.dumps(_comparable(value), sort_keys=True) for value in values]
        if len(set(keys)) > 1:
            texts = _texts(dict(zip(keys, values, strict=True)))
            for i, key in zip(owners, keys, strict=True):
                chosen[i][name] = texts[key]
    return chosen


def _comparable(value: Any) -> Any:
    """The value with all numbers as floats, since 1 equals 1.0."""
    if isinstance(value, Mapping):
        return {key: _comparable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(each) for each in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Readable texts of different values; those that would read alike are numbered."""
    texts = {key: readable(value) for key, value in values.items()}
    for text, count in collections.Counter(texts.values()).items():
        if count > 1:
            alike = [key for key, each in texts.items() if each == text]
            texts |= {key: f"{text}#{number}" for number, key in enumerate(alike, start=1)}
    return texts


def readable(value: Any) -> str:
    """The text of a value of a configuration, without commas, which separate fields in selections."""
    if isinstance(value, _Schedule):
        return f"{readable(value[0])}→{readable(value[-1])}"
    if isinstance(value, Mapping):
        return "/".join(f"{key}:{readable(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ("x" if all(isinstance(each, int | float) for each in value) else "+").join(map(readable, value)) or "()"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return re.sub(r", source [0-9a-f]{8}$", "", str(value)).replace(",", ";")


def _position(name: str) -> tuple[int, str]:
    for position, first in enumerate(_FIRST):
        if name == first or (first.endswith(".") and name.startswith(first)):
            return position, name
    return len(_FIRST), name


def short_names(fields: Iterable[str], known: Collection[str]) -> dict[str, str]:
    """The shortest unambiguous name of each field: "arch" for "model.arch", but "data.name".

    Args:
        fields: full names.
        known: full names of all fields of all runs.
    """
    short = {}
    for field in fields:
        parts = field.split(".")
        least = 2 if field.startswith(_OPTIONS) else 1  # the method and its option
        suffixes = [".".join(parts[-count:]) for count in range(least, len(parts))]
        short[field] = next((each for each in suffixes if find(each, known) == [field]), field)
    return short


def find(text: str, known: Collection[str]) -> list[str]:
    """The fields that a full name, or the end of one, stands for."""
    return [text] if text in known else [name for name in known if _ends_with(name, text)]


def _ends_with(name: str, text: str) -> bool:
    return name == text or name.endswith(f".{text}")


def parse_pairs(text: str, known: Collection[str], flag: str) -> dict[str, str]:
    """Parses "field=value,field=value"; names of groups, with spaces between the pairs, are accepted too.

    Args:
        text: the pairs.
        known: full names of all fields.
        flag: what error messages call the text.

    Returns:
        Values by full name.

    Raises:
        ComparisonError: it is not a list of pairs, or a field is unknown or ambiguous.
    """
    pairs = {}
    for item in filter(None, re.split(r",\s*|\s+(?=[\w.]+=)", text.strip())):
        field, equals, value = item.partition("=")
        if not equals:
            raise ComparisonError(f"{flag}={text}: {item!r} is no field=value pair; use one such as arch=single")
        found = find(field.strip().removeprefix("config."), known)
        if len(found) != 1:
            problem = f"is ambiguous: {', '.join(found)}" if found else "is no field of the configurations"
            raise ComparisonError(f"{flag}={text}: {field.strip()} {problem}; fields are named as in --mode=config")
        pairs[found[0]] = value.strip()
    if not pairs:
        raise ComparisonError(f"{flag} is empty; use field=value pairs joined by commas, such as arch=single")
    return pairs
