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

The same command again resumes a run that was stopped. Any field of the configuration can be set:
--config.weighting=dwa --config.model.width=0.5
"""

import gc
import json
import logging
import pathlib

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from mtan_jax import command_line, evaluate, export, parallel, plan, predict, predict_sets, summary, train, workdir
from mtan_jax.experiment import Experiment

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment: a file under configs/, and ':' with arguments."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and pictures go; made if it is not there.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "predict", "export", "summary", "plan"], "What to do.")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "newest", "For eval, predict, export: newest, best, a step, or initial (before the first step)."
)
SPLIT = flags.DEFINE_enum("split", "val", ["train", "val", "test"], "For eval and predict; test: for predict alone.")
IMAGES = flags.DEFINE_string("images", None, "For predict: a folder of images, or one, in place of the split.")
UNREADABLE = flags.DEFINE_enum("unreadable", "error", ["error", "skip"], "For --images: what unreadable pictures are.")
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
    with parallel.ending_together():
        try:
            run(pathlib.Path(WORKDIR.value or "."))
        except KeyboardInterrupt:
            command_line.fail("stopped; the same command goes on from the newest checkpoint")
        except Exception as error:
            if not command_line.is_readable(error):
                raise
            command_line.fail(str(error))


def run(folder: pathlib.Path) -> None:
    """The mode asked for."""
    if MODE.value in ("train", "plan"):
        # Tracing makes millions of objects, hardly any of them garbage: looking for it after every 700 takes a fifth of
        # its time (docs/performance.md). Other modes trace little, and some leave figures behind.
        gc.set_threshold(100_000)
    if MODE.value == "plan":
        plan.use_no_devices()
    parallel.start_processes(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    config = CONFIG.value
    if config.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(config.compilation_cache).expanduser()))
    experiment = Experiment.from_config(config)
    if MODE.value == "summary":
        print(summary.summary(experiment))
        return
    if MODE.value == "plan":
        print(plan.plan(experiment, folder if WORKDIR.value else None))
        return
    if SPLIT.value == "test" and not (MODE.value == "predict" and experiment.is_mixture):
        raise ValueError(
            "--split=test is for --mode=predict of sets of labelled images; train and val are for all else"
        )
    if IMAGES.value is not None and experiment.is_mixture:
        raise ValueError("--images is for dense tasks; images of a set are those of a split, such as --split=val")
    if MODE.value in ("train", "eval"):
        experiment.check_batch_sizes(train=MODE.value == "train")
    if MODE.value == "export":
        export.check_export(experiment, OUTPUT.value)
    workdir.claim(folder, config, write=MODE.value == "train" and jax.process_index() == 0)
    if CHECKPOINT.value == evaluate.INITIAL or (MODE.value == "train" and not workdir.holds_results(folder)):
        experiment.load_weights()  # what is wrong with the file shows before the data are prepared
    experiment.prepare_data()
    if MODE.value == "train":
        train.train(experiment, folder)
    elif MODE.value == "eval":
        metrics = evaluate.evaluate_checkpoint(experiment, folder, CHECKPOINT.value, SPLIT.value)
        if jax.process_index() == 0:
            print(json.dumps(metrics, indent=2))
    elif MODE.value == "export":
        export.export(experiment, folder, CHECKPOINT.value, OUTPUT.value)
    elif IMAGES.value is not None:
        predict.predict_folder(
            experiment, folder, CHECKPOINT.value, pathlib.Path(IMAGES.value), UNREADABLE.value == "skip"
        )
    else:
        run_predict = predict_sets.predict_sets if experiment.is_mixture else predict.predict_split
        run_predict(experiment, folder, CHECKPOINT.value, SPLIT.value, COUNT.value)


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
