"""The command of a run, and the configuration that it results in."""

import dataclasses
import functools
import pathlib
import shlex
import sys
from collections.abc import Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from mtan_jax import config as config_fields
from mtan_jax.commands import command_line, config_file
from mtan_jax.sweep.grid import GridError, SweepRun


@dataclasses.dataclass(frozen=True)
class Command:
    """A run of a sweep as a command.

    Attributes:
        name: of the run.
        workdir: its working directory.
        flags: of `python -m mtan_jax.main`, without --workdir.
        config: the configuration that the flags result in.
    """

    name: str
    workdir: pathlib.Path
    flags: tuple[str, ...]
    config: ml_collections.ConfigDict

    @property
    def arguments(self) -> list[str]:
        """The command, with this process' interpreter."""
        return [sys.executable, "-m", "mtan_jax.main", *self.flags, f"--workdir={self.workdir}"]

    def __str__(self) -> str:
        """The command as a line for a shell."""
        return shlex.join(["python", *self.arguments[1:]])


def make_commands(runs: Sequence[SweepRun], folder: pathlib.Path, common: Sequence[str] = ()) -> list[Command]:
    """Makes the commands of named runs, and checks that each results in the configuration that the run describes.

    Args:
        runs: from `load_grid` or `name_runs`.
        folder: of the sweep; each run has its working directory in it.
        common: flags of all runs, such as ["--config.data.raw_dir=DIR"].

    Raises:
        GridError: a configuration is not found or fails, a field is unknown, or a value cannot be set on a command
            line.
    """
    return [_make_command(run, folder, common) for run in runs]


def _make_command(run: SweepRun, folder: pathlib.Path, common: Sequence[str]) -> Command:
    if run.name is None:
        raise ValueError("expected a run with a name; see name_runs")
    given = [*(f"--config.{name}={value}" for name, value in run.fields.items()), *common]
    try:
        config = config_file.load_config(run.config)
        mistake = command_line.find_mistake(config, given)
        if mistake is not None:
            raise GridError(mistake)
        config = _parse(run.config, given)
        config_fields.check_fields(config)
    except Exception as error:  # a configuration is a program: it may raise anything
        kind = "" if command_line.is_readable(error) else f"{type(error).__name__}: "
        raise GridError(f"run {run.name}: {kind}{command_line.error_text(error)}") from error
    for name, value in run.fields.items():
        found = functools.reduce(lambda node, part: node[part], name.split("."), config)
        if found != value:
            raise GridError(
                f"run {run.name}: {name} = {value!r} cannot be set on a command line; set it in a configuration file, "
                "with an argument after ':' if it varies"
            )
    return Command(run.name, folder / run.name, (f"--config={run.config}", *given), config)


def _parse(config: str, overrides: Sequence[str]) -> ml_collections.ConfigDict:
    """The configuration of a command line, as `python -m mtan_jax.main` parses it."""
    values = flags.FlagValues()
    argv = ["sweep", f"--config={config_file.find_config(config)}", *overrides]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    return values["config"].value
