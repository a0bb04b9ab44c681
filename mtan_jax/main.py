"""Trains, evaluates and shows a multi-task network.

    python -m mtan_jax.main --config=configs/streets.py --workdir=runs/streets
    python -m mtan_jax.main --config=configs/streets.py --workdir=runs/streets --mode=eval
    python -m mtan_jax.main --config=configs/streets.py --workdir=runs/streets --mode=predict --images=FOLDER
    python -m mtan_jax.main --config=configs/nyuv2.py --mode=summary

Without data, and without a TPU, what the step of training would take on one:
    python -m mtan_jax.main --config=configs/cityscapes.py --mode=plan --config.plan.topology=v5e:2x4

Weights of a PyTorch network: --config.model.init_from=FILE to start from (--mode=eval --checkpoint=initial scores
them as they are), --mode=export --output=FILE for the way back. The network of another run:
--config.model.init_from=WORKDIR.

A trained run needs no dataset for --mode=predict --images, --mode=export and --mode=summary: its working directory is
enough.

The same command again resumes a run that was stopped. Any field of the configuration can be set:
--config.weighting=dwa --config.model.width=0.5
"""

from mtan_jax.runtime import interrupts

if __name__ == "__main__":
    interrupts.end_on_ctrl_c()  # before all other imports, which take seconds

import contextlib
import gc
import json
import logging
import pathlib

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from mtan_jax.commands import command_line, export, plan, predict, predict_sets, summary
from mtan_jax.data.batches.pipeline import close_all as close_batches
from mtan_jax.experiment import Experiment
from mtan_jax.runtime import compilation_cache, parallel, paths
from mtan_jax.training import evaluate, loop, workdir
from mtan_jax.training.open_run import open_run, prepare_data

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment: a file under configs/, and ':' with arguments."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and pictures go; made if it is not there.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "predict", "export", "summary", "plan"], "What to do.")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "newest", "For eval, predict, export: newest, best, a step, or initial (before the first step)."
)
SPLIT = flags.DEFINE_enum("split", "val", ["train", "val", "test"], "For eval and predict; test: for predict alone.")
IMAGES = flags.DEFINE_string(
    "images", None, "For predict: a folder of images, or one, in place of the split; needs no dataset."
)
UNREADABLE = flags.DEFINE_enum(
    "unreadable", "error", ["error", "skip"], "For --images, unreadable pictures: an error, or skipped."
)
COUNT = flags.DEFINE_integer("count", 8, "For predict: how many examples of the split; 0: all.", lower_bound=0)
OUTPUT = flags.DEFINE_string("output", None, "For export: a file that ends in .npz, .safetensors, .pt or .pth.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "address:port of process 0; 'auto' on a Cloud TPU pod.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes; not needed with 'auto'.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which this is, from 0; not needed with 'auto'.")


def main(argv: list[str]) -> None:
    """Runs one mode; what a user can mend ends in one message and exit code 1."""
    if len(argv) > 1:
        command_line.fail(f"unknown arguments: {' '.join(argv[1:])}; flags look like --workdir=runs/streets")
    if WORKDIR.value is None and MODE.value not in ("summary", "plan"):
        command_line.fail("--workdir is needed, as in --workdir=runs/streets")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("mtan_jax").setLevel(logging.INFO)
    absl_logging.set_verbosity(absl_logging.ERROR)  # orbax tells of each of its steps
    with interrupts.raised(), parallel.ending_together():
        try:
            run(pathlib.Path(".") if WORKDIR.value is None else paths.local(WORKDIR.value, "--workdir"))
        except KeyboardInterrupt:
            raise interrupts.Stopped from None
        except Exception as error:
            if not command_line.is_readable(error):
                raise
            command_line.fail(str(error))


def run(folder: pathlib.Path) -> None:
    """Joins the processes, keeps other runs out of the working directory, and runs the mode asked for."""
    if MODE.value in ("train", "plan"):
        # Tracing makes millions of objects, hardly any of them garbage: looking for it after every 700 takes a fifth of
        # its time (docs/performance.md). Other modes trace little, and some leave figures behind.
        gc.set_threshold(100_000)
    if MODE.value == "plan":
        plan.use_no_devices()
    parallel.start_processes(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    with contextlib.ExitStack() as owned:
        # Before the devices are started: a TPU that is in use has another message. A folder that is not there has no
        # owner, and is not made before the configuration is checked.
        if MODE.value == "train" and folder.is_dir():
            owned.enter_context(workdir.own(folder))
        run_mode(folder, owned)


def run_mode(folder: pathlib.Path, owned: contextlib.ExitStack) -> None:
    """Runs the mode asked for; `owned` is left when it has ended."""
    config = CONFIG.value
    if MODE.value == "train":
        experiment = Experiment.from_config(config)
    else:
        experiment = open_run(config, None if WORKDIR.value is None else folder)
    if MODE.value == "summary":
        print(summary.summary(experiment))
        return
    if MODE.value == "plan":
        print(plan.plan(experiment, None if WORKDIR.value is None else folder))
        return
    if SPLIT.value == "test" and not (MODE.value == "predict" and experiment.is_mixture):
        raise ValueError(
            "--split=test is for --mode=predict of sets of labelled images; train and val are for all else"
        )
    if MODE.value in ("train", "eval"):
        experiment.check_batch_sizes(train=MODE.value == "train")
    if MODE.value == "export":
        export.check_export(experiment, OUTPUT.value)
    paths.check_folder(folder, "--workdir", write=MODE.value == "predict")
    if MODE.value == "train":
        owned.enter_context(workdir.own(folder))
    workdir.claim(folder, config, write=MODE.value == "train" and jax.process_index() == 0)
    if config.compilation_cache:
        compilation_cache.use(config.compilation_cache)  # only tracing comes before it
    if CHECKPOINT.value == evaluate.INITIAL or (MODE.value == "train" and not workdir.holds_results(folder)):
        experiment.load_weights()  # what is wrong with the file shows before the data are prepared
    if MODE.value == "train":
        experiment.prepare_data()
        loop.train(experiment, folder)
        return
    prepare_data(experiment, folder, MODE.value, images=IMAGES.value is not None)
    if MODE.value == "eval":
        metrics = evaluate.evaluate_checkpoint(experiment, folder, CHECKPOINT.value, SPLIT.value)
        if jax.process_index() == 0:
            print(json.dumps(metrics, indent=2))
    elif MODE.value == "export":
        export.export(experiment, folder, CHECKPOINT.value, OUTPUT.value)
    elif IMAGES.value is not None:
        images, skip = paths.local(IMAGES.value, "--images"), UNREADABLE.value == "skip"
        if experiment.is_mixture:
            predict_sets.predict_folder(experiment, folder, CHECKPOINT.value, images, COUNT.value, skip)
        else:
            predict.predict_folder(experiment, folder, CHECKPOINT.value, images, skip)
    else:
        run_predict = predict_sets.predict_sets if experiment.is_mixture else predict.predict_split
        run_predict(experiment, folder, CHECKPOINT.value, SPLIT.value, COUNT.value)


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=command_line.parse)
    except interrupts.Stopped:
        close_batches()
        interrupts.end()
