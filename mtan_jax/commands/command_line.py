"""Parses the command line. Every mistake in it ends in one readable message."""

import re
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict

from mtan_jax.commands import config_file
from mtan_jax.config import ArgumentError
from mtan_jax.runtime.paths import PathError

_CONFIG_FLAGS = ("--config", "-config")
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")


def parse(argv: list[str]) -> list[str]:
    """Parses the flags; pass it to `absl.app.run(main, flags_parser=parse)`.

    For a mistake in a configuration file, or a flag for a field that it does not have, absl and ml_collections print a
    traceback of their own code. The configuration is therefore loaded and checked here first.

    Args:
        argv: the program's name and its arguments.

    Returns:
        The program's name and the arguments that are not flags.

    Raises:
        SystemExit: with exit code 1 and one message on stderr that names the flag, or the line of the configuration
            file, and the known values. After --help, with exit code 0 and the help on stdout.
    """
    text = _config_value(argv)
    if text is not None:
        found = _find(text)
        argv = _replace_config(argv, str(found))
        mistake = find_mistake(_load(found), argv)
        if mistake is not None:
            fail(mistake)
    try:
        arguments = flags.FLAGS(argv)
    except flags.Error as error:
        fail(str(error))
    if text is None:
        fail("--config is required, for example --config=streets or --config=configs/streets.py")
    return arguments


def is_readable(error: Exception) -> bool:
    """Whether an error's message is enough for the user to act on. If not, it is shown with its traceback.

    True for errors that this package raises on purpose and for errors of the operating system. Others, such as one in a
    user's own task, need their traceback.
    """
    if isinstance(error, OSError) or type(error).__module__.startswith("mtan_jax"):
        return True
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return isinstance(error, ValueError) and frame.f_globals["__name__"].startswith("mtan_jax")


def fail(message: str) -> NoReturn:
    """Ends the program with one message on stderr and exit code 1."""
    sys.exit(f"error: {message}")


def _config_value(argv: list[str]) -> str | None:
    """The text of --config, None if the flag is not given."""
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in _CONFIG_FLAGS:
            return value if equals else next(iter(argv[i + 1 :]), "")
    return None


def _replace_config(argv: list[str], text: str) -> list[str]:
    start = next(i for i, argument in enumerate(argv) if argument.partition("=")[0] in _CONFIG_FLAGS)
    end = start + 1 if "=" in argv[start] else start + 2
    return [*argv[:start], f"--config={text}", *argv[end:]]


def _find(text: str) -> config_file.ConfigFile:
    try:
        return config_file.find_config(text, "--config")
    except (config_file.ConfigFileError, PathError) as error:
        fail(str(error))


def _load(found: config_file.ConfigFile) -> ConfigDict:
    try:
        return config_file.run_config(found)
    except (config_file.ConfigFileError, ArgumentError) as error:
        fail(str(error))
    except Exception as error:  # a configuration is a program: it may raise anything
        path = str(found.path)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        place = f"{path}, line {lines[-1]}" if lines else path
        fail(f"{place}: {type(error).__name__}: {error_text(error)}")


def error_text(error: BaseException) -> str:
    """The message of an error of a configuration; ml_collections wraps a KeyError, whose text is quoted each time."""
    inner = error.args[0] if error.args else ""
    if isinstance(inner, BaseException):
        return error_text(inner)
    return inner if isinstance(error, KeyError) and isinstance(inner, str) else str(error)


def find_mistake(config: ConfigDict, argv: Sequence[str]) -> str | None:
    """The message about a `--config.FIELD` that the configuration does not have, None if it has all of them."""
    for argument in argv:
        match = _OVERRIDE.match(argument)
        node: object = config
        name = "config"
        for part in match[1].split(".") if match else ():
            if not isinstance(node, ConfigDict):
                return f"{argument}: {name} is a value and has no fields"
            if part not in node:
                return f"{argument}: {name} has no field {part!r}; known fields: {', '.join(node) or 'none'}"
            node, name = node.get(part), f"{name}.{part}"
    return None
