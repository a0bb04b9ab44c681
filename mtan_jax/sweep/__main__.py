"""Trains all runs of a grid.

    python -m mtan_jax.sweep --grid=FILE --workdir=runs/NAME
    python -m mtan_jax.sweep --grid=FILE --workdir=runs/NAME --list

A grid is a Python file with a function that returns runs:

    from mtan_jax.sweep import product

    def get_runs(arg=None):
        return product("streets", {"weighting": ["equal", "dwa"], "seed": [0, 1, 2]})

Each run trains in runs/NAME/RUN, in a process of its own: one per GPU or TPU chip, or --jobs processes on CPUs. The
same command again completes what is missing. `python -m mtan_jax.compare runs/NAME` makes tables of the results.
"""

import argparse
import logging
import pathlib
import signal
import sys
from types import FrameType
from typing import NoReturn

from mtan_jax.commands import command_line
from mtan_jax.runtime import paths
from mtan_jax.sweep import cluster
from mtan_jax.sweep.command import make_commands
from mtan_jax.sweep.grid import load_grid
from mtan_jax.sweep.sweep import run_sweep


def main() -> None:
    """Runs one command. An error that the user can fix ends in one message and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("mtan_jax").setLevel(logging.INFO)
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    arguments, flags = make_parser().parse_known_args()
    for flag in flags:
        if not flag.startswith("--config."):
            command_line.fail(f"{flag} is not known; see --help. Fields of all runs look like --config.FIELD=VALUE")
    try:
        status = _run(arguments, flags)
    except KeyboardInterrupt as interrupt:
        sys.stderr.write("stopped; the same command continues\n")
        status = 128 + interrupt.args[0]
    except Exception as error:
        if not command_line.is_readable(error):
            raise
        command_line.fail(str(error))
    sys.exit(status)


def _run(arguments: argparse.Namespace, flags: list[str]) -> int:
    runs = load_grid(arguments.grid)
    folder = paths.local(arguments.workdir, "--workdir")
    commands = make_commands(runs, folder, flags)
    if arguments.list:
        sys.stdout.writelines(f"{command}\n" for command in commands)
    elif arguments.slurm:
        folder.mkdir(parents=True, exist_ok=True)  # for SLURM's logs
        _write(arguments.slurm, cluster.slurm_script(commands, folder, arguments.slurm.name))
    elif arguments.kubernetes:
        jobs = arguments.jobs or len(commands)
        _write(arguments.kubernetes, cluster.kubernetes_job(commands, folder, arguments.kubernetes.name, jobs))
    else:
        entries = run_sweep(runs, folder, jobs=arguments.jobs, flags=flags)
        return int(any(entry.state == "failed" for entry in entries))
    return 0


def _write(path: pathlib.Path, text: str) -> None:
    path.write_text(text)
    sys.stdout.write(f"written to {path}\n")


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(signum)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mtan_jax.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--config.FIELD=VALUE sets a field of all runs, as in --config.data.raw_dir=DIR.",
    )
    parser.add_argument("--grid", required=True, metavar="FILE", help="the grid; FILE:TEXT calls get_runs('TEXT')")
    parser.add_argument("--workdir", required=True, metavar="FOLDER", help="the folder of the sweep")
    parser.add_argument(
        "--jobs", type=_positive, metavar="N", help="processes at a time; default: one per GPU or TPU chip, 1 on CPUs"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="print the commands, and start nothing")
    instead.add_argument(
        "--slurm",
        type=paths.expanded,
        metavar="FILE",
        help="write a SLURM array script, and start nothing",
    )
    instead.add_argument(
        "--kubernetes",
        type=paths.expanded,
        metavar="FILE",
        help="write a Kubernetes indexed Job, and start nothing",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return number


if __name__ == "__main__":
    main()
