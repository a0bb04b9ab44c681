"""Groups of runs that differ only in their seed."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from mtan_jax.compare import fields
from mtan_jax.compare.errors import ComparisonError
from mtan_jax.compare.runs import StoredRun
from mtan_jax.config import OPEN_FIELDS

SINGLE = ("model.arch", "weighting")  # name the group if the runs differ in the seed alone


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed, or the runs that form the baseline.

    Attributes:
        name: short field names and values, such as "arch=mtan weighting=dwa".
        fields: values of the fields in which the groups differ, by full name; without those in which the groups of a
            baseline differ.
        runs: of the group.
        is_baseline: whether Delta-m is relative to this group.
    """

    name: str
    fields: Mapping[str, str]
    runs: tuple[StoredRun, ...]
    is_baseline: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of the runs, each once."""
        return tuple(dict.fromkeys(task for run in self.runs for task in run.tasks))


@dataclasses.dataclass(frozen=True)
class Grouping:
    """All groups of a comparison.

    Attributes:
        groups: in the order of their first runs.
        short: short names of the fields in which the groups differ, by full name.
        known: full names of all fields.
    """

    groups: tuple[Group, ...]
    short: Mapping[str, str]
    known: Collection[str]

    def select(self, text: str, flag: str) -> list[Group]:
        """The groups that a group's name, or pairs "field=value" joined by commas, stand for.

        Raises:
            ComparisonError: the text is invalid, or no group has these values.
        """
        named = [group for group in self.groups if group.name == text.strip()]
        if named:
            return named
        pairs = fields.parse_pairs(text, self.known, flag)
        chosen = [group for group in self.groups if all(_is(_value(group, name), pairs[name]) for name in pairs)]
        if not chosen:
            found = {name: sorted({_value(group, name) for group in self.groups}) for name in pairs}
            values = "; ".join(f"{name} has the values {', '.join(each)}" for name, each in found.items())
            raise ComparisonError(f"{flag}={text} selects no group; {values}")
        return chosen

    def with_baseline(self, chosen: Sequence[Group]) -> "Grouping":
        """The same groups with those of the baseline joined in one, which comes first."""
        common = {
            name: value
            for name, value in chosen[0].fields.items()
            if all(group.fields.get(name) == value for group in chosen)
        }
        others = [group for group in self.groups if group not in chosen]
        values: dict[str, set[str]] = {}
        for each in (common, *(group.fields for group in others)):
            for name, value in each.items():
                values.setdefault(name, set()).add(value)
        short = {name: each for name, each in self.short.items() if len(values.get(name, ())) > 1}

        def shown(each: Mapping[str, str]) -> dict[str, str]:
            return {name: value for name, value in each.items() if name in short}

        rest = [
            dataclasses.replace(each, name=_name(shown(each.fields), short), fields=shown(each.fields))
            for each in others
        ]
        name = _name(shown(common), short)
        if not name or name in {group.name for group in rest}:
            name = "baseline"
        runs = tuple(run for group in chosen for run in group.runs)
        return dataclasses.replace(self, groups=(Group(name, shown(common), runs, True), *rest), short=short)


def make_grouping(runs: Sequence[StoredRun], ignored: Collection[str] = ()) -> Grouping:
    """Groups runs by all fields of their configurations on which results depend, apart from the seed.

    Args:
        runs: at least one.
        ignored: names of fields that groups need not agree in, in full or from any dot on.

    Raises:
        ComparisonError: a name is no field of the configurations.
    """
    known = sorted({name for run in runs for config in (run.config, fields.effective(run.config)) for name in config})
    for name in ignored:
        if not fields.find(name, known):
            raise ComparisonError(f"--ignore={name} is no field of the configurations; see --mode=config for all")
    configs = [fields.effective(run.config, ignored) for run in runs]
    chosen = fields.differing(configs, _defaults(configs))
    short = fields.short_names({name for each in chosen for name in each}, known)
    groups: dict[tuple, list[int]] = {}
    for i, each in enumerate(chosen):
        groups.setdefault(tuple(each.items()), []).append(i)
    return Grouping(
        tuple(
            Group(
                _name(dict(key), short) or _default_name(configs[members[0]]),
                dict(key),
                tuple(runs[i] for i in members),
            )
            for key, members in groups.items()
        ),
        short,
        known,
    )


def _name(values: Mapping[str, str], short: Mapping[str, str]) -> str:
    return " ".join(f"{short[name]}={value}" for name, value in values.items())


def _default_name(config: fields.Config) -> str:
    return " ".join(f"{name.split('.')[-1]}={fields.readable(config.get(name))}" for name in SINGLE)


def _value(group: Group, name: str) -> str:
    """The value of a field of a group as text, also if it is the same in all groups."""
    if name in group.fields:
        return group.fields[name]
    return fields.readable(fields.effective(group.runs[0].config).get(name, group.runs[0].config.get(name)))


def _is(text: str, wanted: str) -> bool:
    """Whether two texts are equal or the same number."""
    if text == wanted:
        return True
    try:
        return float(text) == float(wanted)
    except ValueError:
        return False


def _defaults(configs: Iterable[fields.Config]) -> dict[str, Any]:
    """The defaults of all fields if some configuration lacks one, because it was written by an older version."""
    configs = list(configs)
    names = {name for config in configs for name in config if not name.startswith(OPEN_FIELDS)}
    if all(names - {*fields.WITHOUT_EFFECT} <= set(config) for config in configs):
        return {}
    from mtan_jax.config import default_config
    from mtan_jax.training.config_record import flatten_config  # imports JAX

    return dict(flatten_config(default_config()))
