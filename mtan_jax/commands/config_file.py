"""Finds a configuration by path or by name, and loads it."""

import dataclasses
import difflib
import os
import pathlib
import runpy

from ml_collections import ConfigDict

from mtan_jax.runtime import paths

_PACKAGE = pathlib.Path(__file__).parents[1]


class ConfigFileError(ValueError):
    """There is no such configuration, or the file does not define one."""


@dataclasses.dataclass(frozen=True)
class ConfigFile:
    """A configuration file and its argument.

    Attributes:
        path: of the file.
        argument: the text after ':', None without a ':'.
    """

    path: pathlib.Path
    argument: str | None = None

    def __str__(self) -> str:
        """The form that ml_collections' `DEFINE_config_file` reads: "PATH" or "PATH:ARGUMENT"."""
        return str(self.path) if self.argument is None else f"{self.path}:{self.argument}"


def load_config(text: str | os.PathLike[str]) -> ConfigDict:
    """Loads a configuration, as `--config` does on the command line.

    Args:
        text: the name of a configuration that ships with mtan_jax, such as "streets", or the path of a file that
            defines `get_config(arg=None)`. Text after ':' is passed to `get_config`: "streets:smoke,width=0.5".

    Returns:
        The configuration. Every field can be changed before it is used.

    Raises:
        ConfigFileError: there is no such configuration, or the file defines none.
        PathError: the path is empty or remote, or its home directory is unknown.
        ArgumentError: the text after ':' has an unknown key or value.
    """
    found = find_config(os.fspath(text))
    return run_config(found)


def find_config(text: str, flag: str = "config") -> ConfigFile:
    """Finds the file of a configuration.

    A file that exists is used as it is. Otherwise a name without folder and suffix is looked up among the
    configurations that ship with mtan_jax, whatever the current folder.

    Args:
        text: a path or a name, with or without ':' and an argument.
        flag: what error messages call the text.

    Raises:
        ConfigFileError: nothing was found. The message says what there is.
        PathError: the path is empty or remote, or its home directory is unknown.
    """
    paths.check_local(text, flag)
    name, colon, argument = text.partition(":")
    path = paths.local(name, flag)
    if not path.is_file() and name in known_names():
        path = _folder() / f"{name}.py"
    if not path.is_file():
        raise ConfigFileError(f"{flag}={text}: {_hint(name, path)}")
    return ConfigFile(path, argument if colon else None)


def run_config(found: ConfigFile) -> ConfigDict:
    """Calls `get_config` of a configuration file. Exceptions raised by the file propagate.

    Raises:
        ConfigFileError: the file defines no `get_config`, or it returns anything other than a ConfigDict.
    """
    get_config = runpy.run_path(str(found.path)).get("get_config")
    if not callable(get_config):
        raise ConfigFileError(f"{found.path} defines no function get_config; a configuration file needs one")
    config = get_config() if found.argument is None else get_config(found.argument)
    if not isinstance(config, ConfigDict):
        raise ConfigFileError(
            f"{found.path}: get_config returned {type(config).__name__}, expected a ConfigDict; start from "
            "mtan_jax.config.default_config()"
        )
    return config


def known_names() -> list[str]:
    """The names of the configurations that ship with mtan_jax."""
    return sorted(path.stem for path in _folder().glob("[!_]*.py"))


def _folder() -> pathlib.Path:
    """`configs/` in the installed package, or at the top of a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def _hint(name: str, path: pathlib.Path) -> str:
    """Says why there is no configuration at `path`, and what to give instead."""
    known = f"known names: {', '.join(known_names())}"
    if path.is_dir():
        files = _configs_in(path)
        return f"this is a folder; {f'give one of its files: {files}' if files else known}"
    if path.suffix != ".py" and path.with_name(f"{path.name}.py").is_file():
        return f"there is no such file; use {path}.py"
    if path.stem in known_names():
        return f"there is no such file; use the name {path.stem} for the configuration that ships with mtan_jax"
    if name == path.stem:
        close = difflib.get_close_matches(name, known_names(), n=1)
        return f"there is no configuration of this name; {f'did you mean {close[0]}? ' if close else ''}{known}"
    files = _configs_in(path.parent)
    return f"there is no such file; {f'its folder has {files}' if files else known}"


def _configs_in(folder: pathlib.Path) -> str:
    found = (path for path in folder.glob("*.py") if b"def get_config(" in path.read_bytes())
    return ", ".join(sorted(map(str, found)))
