"""Trains and evaluates multi-task networks, and predicts with them.

    python -m mtan_jax.main --config=configs/streets.py
    python -m mtan_jax.main --config=configs/streets.py --mode=eval
    python -m mtan_jax.main --config=configs/streets.py --mode=predict --images=FOLDER
    python -m mtan_jax.main --config=configs/nyuv2.py --mode=summary

The run goes to runs/NAME, where NAME is that of the configuration, or to --workdir. The same command resumes a run that
was stopped. Any field of the configuration can be set, as in --config.weighting=dwa --config.model.width=0.5;
--mode=config prints all of them.

Compile the training step for a TPU that need not be present, and report memory and speed limits:
    python -m mtan_jax.main --config=configs/cityscapes.py --mode=plan --config.plan.topology=v5e:2x4

Weights of a PyTorch network: --config.model.init_from=FILE to start from (--mode=eval --checkpoint=initial evaluates
them as they are), and --mode=export --output=FILE for the way back. The network of another run:
--config.model.init_from=WORKDIR.

--mode=predict --images, --mode=export and --mode=summary need no dataset: the working directory of the run is enough.
"""

import gc
import importlib
import logging
import pathlib
import re
import sys

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from mtan_jax.commands import command_line
from mtan_jax.commands.request import Request
from mtan_jax.runtime import interrupts, mirror

log = logging.getLogger("mtan_jax.main")  # also when this module runs as __main__

# Mode -> the module in mtan_jax.commands whose `run` does it. Imported when asked for: some import for seconds.
COMMANDS = {
    "train": "train",
    "eval": "evaluate",
    "predict": "predict",
    "export": "export",
    "summary": "summary",
    "plan": "plan",
    "config": "show_config",
}
WITHOUT_WORKDIR = ("summary", "plan", "config")

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment: a file or a name under configs/, and ':' with arguments, as in streets:smoke."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, metrics and figures, or gs://BUCKET/FOLDER; runs/NAME by default."
)
MODE = flags.DEFINE_enum("mode", "train", list(COMMANDS), "What to do.")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "newest", "For eval, predict, export: newest, best, a step, or initial (before the first step)."
)
SPLIT = flags.DEFINE_enum("split", "val", ["train", "val", "test"], "For eval and predict; test: for predict alone.")
IMAGES = flags.DEFINE_string(
    "images", None, "For predict: a folder of images, or one image, in place of the split; needs no dataset."
)
UNREADABLE = flags.DEFINE_enum(
    "unreadable", "error", ["error", "skip"], "For --images, unreadable pictures: an error, or skipped."
)
COUNT = flags.DEFINE_integer(
    "count",
    8,
    "For predict: how many examples of the split; for sets of images, how many per figure; 0: all.",
    lower_bound=0,
)
OUTPUT = flags.DEFINE_string("output", None, "For export: a file that ends in .npz, .safetensors, .pt or .pth.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "address:port of process 0; 'auto' on a Cloud TPU pod.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes; not needed with 'auto'.")
PARALLEL = flags.DEFINE_enum(
    "parallel",
    "auto",
    ["auto", "pmap", "shard_map"],
    "How steps are mapped over devices; auto: shard_map for several processes.",
)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process, from 0; not needed with 'auto'.")


def main(argv: list[str]) -> None:
    """Runs one command. An error that the user can fix ends in one message and exit code 1."""
    if len(argv) > 1:
        command_line.fail(f"unknown arguments: {' '.join(argv[1:])}; flags look like --workdir=runs/streets")
    logging.basicConfig(level=logging.WARNING, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Formatter())
    logging.getLogger("mtan_jax").setLevel(logging.INFO)
    absl_logging.set_verbosity(absl_logging.ERROR)  # orbax reports each of its steps
    from mtan_jax.runtime import parallel  # imports JAX, which takes seconds

    with parallel.ending_together():
        try:
            run_command()
        except Exception as error:
            if not command_line.is_readable(error):
                raise
            command_line.fail(mirror.renamed(str(error)))


class _Formatter(logging.Formatter):
    """Formats messages without a prefix, with the users' names of paths in buckets."""

    def format(self, record: logging.LogRecord) -> str:
        return mirror.renamed(super().format(record))


def run_command() -> None:
    """Joins the processes, and runs the command asked for."""
    from mtan_jax.runtime import parallel

    if SPLIT.value == "test" and MODE.value != "predict":
        command_line.fail("--split=test is for --mode=predict of sets of labelled images; use train or val")
    if MODE.value in ("train", "plan"):
        # Tracing allocates millions of objects that are hardly ever garbage (docs/performance.md).
        gc.set_threshold(100_000)
    command = importlib.import_module(f"mtan_jax.commands.{COMMANDS[MODE.value]}")
    request = Request(
        CONFIG.value,
        find_workdir(),
        checkpoint=CHECKPOINT.value,
        split=SPLIT.value,
        images=IMAGES.value,
        skip_unreadable=UNREADABLE.value == "skip",
        count=COUNT.value,
        output=OUTPUT.value,
    )
    if MODE.value == "plan":
        command.use_no_devices()
    parallel.use(PARALLEL.value)
    parallel.start_processes(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if request.workdir is not None and WORKDIR.value is None:
        log.info("working directory: %s (--workdir=FOLDER names another)", request.workdir)  # by process 0 only
    with interrupts.raised():
        interrupts.raise_if_received()
        command.run(request)


def find_workdir() -> pathlib.Path | None:
    """The working directory: --workdir, or runs/NAME for commands that need one."""
    if WORKDIR.value is not None:
        return mirror.local(WORKDIR.value, "--workdir")
    if MODE.value in WITHOUT_WORKDIR:
        return None
    return default_workdir(config_flags.get_config_filename(flags.FLAGS["config"]))


def default_workdir(config: str) -> pathlib.Path:
    """The default working directory: runs/streets for "configs/streets.py", runs/streets-smoke with ":smoke".

    Args:
        config: a path and, after ':', its arguments.
    """
    path, _, argument = config.partition(":")
    name = "-".join(filter(None, (pathlib.Path(path).stem, argument)))
    return pathlib.Path("runs") / re.sub(r"[^\w.+-]+", "-", name)


def console() -> None:
    """The program: `python -m mtan_jax.main` and the console script `mtan-jax`."""
    connects = any(argument.lstrip("-").startswith("coordinator") for argument in sys.argv[1:])
    interrupts.install(connects=connects)  # before JAX is imported, which takes seconds
    try:
        app.run(main, flags_parser=command_line.parse)
    except interrupts.Stopped as stopped:
        if "mtan_jax.data.batches.pipeline" in sys.modules:
            sys.modules["mtan_jax.data.batches.pipeline"].close_all()
        interrupts.end(str(stopped.code))


if __name__ == "__main__":
    console()
