"""Reads the command line, so that whatever is mistyped ends in one readable message."""

import pathlib
import re
import runpy
import sys
import traceback
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict

from mtan_jax.config import ArgumentError
from mtan_jax.runtime import paths

_CONFIG_FLAGS = ("--config", "-config")
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")


def parse(argv: list[str]) -> list[str]:
    """Reads the flags; for `absl.app.run(main, flags_parser=parse)`.

    The configuration is made once before absl makes it, because absl and ml_collections answer mistakes in it, and
    fields on the command line that it does not have, with tracebacks of their own code.

    Args:
        argv: name of the program and its arguments.

    Returns:
        Name of the program and what is no flag.

    Raises:
        SystemExit: code 1 and one message on stderr for a mistake: the message has the flag, or the configuration's
            line, and what is known. With --help, the help.
    """
    argv = _expand_config(argv)
    value = _config_value(argv)
    if value is not None:
        _check_overrides(_make_config(value), argv)
    try:
        arguments = flags.FLAGS(argv)
    except flags.Error as error:
        fail(str(error))
    if value is None:
        fail("--config is needed, as in --config=configs/streets.py")
    return arguments


def is_readable(error: Exception) -> bool:
    """Whether the message of an error says enough for the user to mend it; if not, the traceback belongs to it.

    It does where this package raised it on purpose, and where the system refused something. Others, such as an error
    in a task of the user's own, need their traceback.
    """
    if isinstance(error, OSError) or type(error).__module__.startswith("mtan_jax"):
        return True
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return isinstance(error, ValueError) and frame.f_globals["__name__"].startswith("mtan_jax")


def fail(message: str) -> NoReturn:
    """Ends the program with one message on stderr and exit code 1."""
    sys.exit(f"error: {message}")


def _expand_config(argv: list[str]) -> list[str]:
    """The arguments with the home directory filled in in --config, which shells leave alone behind a '='."""
    value = _config_value(argv)
    if not value:
        return argv
    try:
        expanded = str(paths.local(value, "--config"))
    except paths.PathError as error:
        fail(str(error))
    place = next(i for i, argument in enumerate(argv) if argument.partition("=")[0] in _CONFIG_FLAGS)
    end = place + 1 if "=" in argv[place] else place + 2
    return [*argv[:place], f"--config={expanded}", *argv[end:]]


def _config_value(argv: list[str]) -> str | None:
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in _CONFIG_FLAGS:
            return value if equals else next(iter(argv[i + 1 :]), "")
    return None


def _make_config(value: str) -> Any:
    name, colon, argument = value.partition(":")
    path = pathlib.Path(name)
    if not path.is_file():
        there = ", ".join(sorted(str(other) for other in path.parent.glob("*.py")))
        fail(f"--config={value}: there is no such file; in its folder: {there or 'no configurations'}")
    try:
        return runpy.run_path(name)["get_config"](*([argument] if colon else []))
    except ArgumentError as error:
        fail(str(error))
    except Exception as error:  # a configuration is a program: it may raise anything
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
        place = f"{name}, line {lines[-1]}" if lines else name
        fail(f"{place}: {type(error).__name__}: {_message(error)}")


def _message(error: BaseException) -> str:
    # ml_collections wraps a KeyError, whose text is quoted each time.
    inner = error.args[0] if error.args else ""
    if isinstance(inner, BaseException):
        return _message(inner)
    return inner if isinstance(error, KeyError) and isinstance(inner, str) else str(error)


def _check_overrides(config: Any, argv: list[str]) -> None:
    for argument in argv:
        match = _OVERRIDE.match(argument)
        node, name = config, "config"
        for part in match[1].split(".") if match else ():
            if not isinstance(node, ConfigDict):
                fail(f"{argument}: {name} is a value and has no fields")
            if part not in node:
                fail(f"{argument}: {name} has no field {part!r}; it has: {', '.join(node) or 'none'}")
            node, name = node.get(part), f"{name}.{part}"
