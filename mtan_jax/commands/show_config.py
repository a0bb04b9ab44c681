"""Prints every field of the configuration with its value, its comment and its known values."""

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterable

import ml_collections

from mtan_jax import config as config_module
from mtan_jax.commands.request import Request
from mtan_jax.data import DATASETS
from mtan_jax.models import ARCHITECTURES, BACKBONES, IMAGE_ARCHITECTURES, IMAGE_BACKBONES
from mtan_jax.tasks import TASKS
from mtan_jax.weighting import METHODS

WIDTH = 120
# Fields whose values are names in a registry. The values of other fields are in their comments.
REGISTRIES: dict[str, Iterable[str]] = {
    "tasks": TASKS,
    "data.name": DATASETS,
    "model.arch": ARCHITECTURES | IMAGE_ARCHITECTURES,
    "model.backbone": BACKBONES | IMAGE_BACKBONES,
    "weighting": METHODS,
}


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a configuration.

    Attributes:
        name: its dotted name.
        value: its value, as Python code.
        comment: its meaning, with the known names if its value is one of a registry.
        documented: the name of the field or the group of fields that the comment is about.
    """

    name: str
    value: str
    comment: str
    documented: str


def show_config(config: ml_collections.ConfigDict) -> str:
    """Formats every field of a configuration: value, comment and known names."""
    lines: list[str] = []
    group = ""
    for field in fields(config):
        comment = field.comment
        if field.documented != field.name:  # the comment of a group precedes the first field
            lines += _wrap(comment) if comment and field.documented != group else []
            comment, group = "", field.documented
        lines += _format(f"{field.name} = {field.value}", comment)
    return "\n".join(lines)


def fields(config: ml_collections.ConfigDict) -> list[Field]:
    """Every field of a configuration, in the order of `mtan_jax.config.default_config`."""
    comments = field_comments()
    order = {name: i for i, name in enumerate(comments)}  # of the source; a ConfigDict sorts its keys
    found = []
    for name, value in sorted(_leaves(config), key=lambda leaf: order.get(_commented(leaf[0], comments), len(order))):
        documented = _commented(name, comments)
        comment = comments.get(documented, "")
        if name in REGISTRIES:
            comment = f"{comment.removesuffix('.')}; known: {', '.join(sorted(REGISTRIES[name]))}".removeprefix("; ")
        found.append(Field(name, _show(value), comment, documented))
    return found


def field_comments() -> dict[str, str]:
    """The comment of each field in `mtan_jax.config.default_config`, by dotted name."""
    source = inspect.getsource(config_module.default_config)
    at_line: dict[int, str] = {}  # comments after code, by line
    alone: dict[int, str] = {}  # comments on their own lines, by line
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            is_alone = not token.line[: token.start[1]].strip()
            (alone if is_alone else at_line)[token.start[0]] = token.string.lstrip("# ")
    comments = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign):
            continue
        before: list[str] = []
        line = node.lineno - 1
        while line in alone:
            before.insert(0, alone[line])
            line -= 1
        text = " ".join([*before, *([at_line[node.end_lineno]] if node.end_lineno in at_line else [])])
        for target in node.targets:
            name = ast.unparse(target)
            if text and name.startswith("config."):
                comments[name.removeprefix("config.")] = text
    return comments


def run(request: Request) -> None:
    """`--mode=config`: prints the configuration."""
    print(show_config(request.config))


def _leaves(config: ml_collections.ConfigDict, prefix: str = "") -> Iterable[tuple[str, object]]:
    for name in config:
        value = config.get(name)
        if isinstance(value, ml_collections.ConfigDict) and len(value):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _commented(name: str, comments: dict[str, str]) -> str:
    """The field, or the innermost group around it, that has a comment."""
    while name not in comments and "." in name:
        name = name.rpartition(".")[0]
    return name


def _show(value: object) -> str:
    if isinstance(value, ml_collections.ConfigDict):
        return "{}"
    return getattr(value, "__name__", None) or repr(value)


def _format(text: str, comment: str) -> list[str]:
    line = f"{text:<44}  # {comment}" if comment else text
    if len(line) <= WIDTH:
        return [line]
    return [*_wrap(comment), text]


def _wrap(comment: str) -> list[str]:
    return textwrap.wrap(comment, WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)
