"""From a configuration to a run: what is refused, what is read, what the configuration files come to."""

import functools
import pathlib
import runpy
import types

import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from helpers import toy_config, toy_sets_config
from helpers.toy_data import ToyBuilder

from mtan_jax import config as config_module
from mtan_jax import main
from mtan_jax.config import FREE_FIELDS, ArgumentError, default_config
from mtan_jax.data import DATASETS
from mtan_jax.data.batches.set_order import SetOrder
from mtan_jax.data.errors import RawDataError
from mtan_jax.experiment import Experiment, checks
from mtan_jax.reporting import metrics_file
from mtan_jax.runtime.checkpoint import Checkpoints
from mtan_jax.steps import duration
from mtan_jax.steps.learning_rate import build_schedule
from mtan_jax.steps.state import Window
from mtan_jax.tasks.decathlon_score import FINETUNING_ERRORS
from mtan_jax.training import loop, window_log, workdir
from mtan_jax.training.config_record import flatten_config
from mtan_jax.weighting import METHODS

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def make_config(**fields):
    """The toy configuration; `data__name="x"` sets `config.data.name`."""
    config = toy_config.get_config()
    for name, value in fields.items():
        *sections, last = name.split("__")
        functools.reduce(getattr, sections, config)[last] = value
    return config


def run(config, folder):
    """Trains, and returns the lines of metrics by split."""
    config.data.data_dir = str(folder / "data")
    experiment = Experiment.from_config(config)
    experiment.data.prepare()
    loop.train(experiment, folder / "run")
    return lines_of(folder / "run")


def lines_of(folder):
    lines = metrics_file.read_metrics(folder / "metrics.jsonl", timing=False)
    return {split: [line for line in lines if line["split"] == split] for split in {line["split"] for line in lines}}


def load_config(name, argument=None):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](argument)


# What is refused before any data are read.

SCHEDULE = {"weights": {"semantic": 1.0, "depth": lambda step: 1.0 if step < 10 else 0.1, "normal": 1.0}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": ("semantic", "sdf")}, r"Unknown task 'sdf'; known tasks: semantic, depth, normal"),
        ({"tasks": ("depth", "depth")}, r"Task 'depth' is given more than once"),
        (
            {"model__arch": "mtn"},
            r"config\.model\.arch = 'mtn' is not known; known: cross_stitch, deep_adaptation, dense, .*, mtan",
        ),
        (
            {"model__backbone": "vgg"},
            r"config\.model\.backbone = 'vgg' is not known; known: resnet101, resnet50",
        ),
        ({"model__dtype": "bf16"}, r"config\.model\.dtype = 'bf16' is not known; known: bfloat16, float16, float32"),
        ({"model__param_dtype": "half"}, r"config\.model\.param_dtype = 'half' is not known; known: bfloat16"),
        ({"model__width": 0.0}, r"config\.model\.width = 0\.0: it multiplies channel counts, so it must be above 0"),
        (
            {"data__name": "kitti"},
            r"config\.data\.name = 'kitti' is not known; known: cityscapes, decathlon, mini_decathlon, nyuv2, streets",
        ),
        (
            {"data__name": "streets", "data__options": {"size": 64}},
            r"config\.data\.options\.size is not known to streets; known: image_size, train_examples, val_examples",
        ),
        (
            {"data__name": "streets", "data__options": {"image_size": (64,)}},
            r"image_size: got \(64,\); expected height",
        ),
        (
            {"data__name": "nyuv2", "data__options": {"layout": "npy"}},
            r"layout: got 'npy'; expected one of 'auto', 'release', ",
        ),
        ({"weighting": "dwaa"}, rf"unknown weighting 'dwaa' .*; known: {', '.join(METHODS)}"),
        ({"weighting": "static+gradnrm"}, rf"unknown weighting 'gradnrm' .*; known: {', '.join(METHODS)}"),
        (
            {"weighting_options__dwa": {"temp": 2.0}},
            r"unknown option 'temp' of weighting 'dwa'; known: temperature, va",
        ),
        ({"weighting_options__pcgrd": {}}, rf"unknown weighting 'pcgrd' in .* options; known: {', '.join(METHODS)}"),
        (
            {"weighting": "dwa", "weighting_options__dwa__variant": "liu"},
            r"dwa variant is 'liu'; expected 'mtan' or 'nash'",
        ),
        ({"weighting": "schedule"}, r"schedule weights: missing \['depth', 'normal', 'semantic'\]"),
        (
            {"weighting": "static", "weighting_options__static": {"weights": {"depth": 1.0, "nromal": 1.0}}}
            | {"tasks": ("depth", "normal")},
            r"static weights: missing \['normal'\], unknown \['nromal'\]; expected exactly \['depth', 'normal'\]",
        ),
        ({"weighting": "schedule", "weighting_options__schedule": SCHEDULE}, r"weight of 'depth': .* use jnp\.where"),
        ({"optimizer__name": "lion"}, r"config\.optimizer\.name='lion' is unknown; known: adam, adamw, sgd"),
        ({"optimizer__schedule": "step"}, r"config\.optimizer\.schedule='step' is unknown; known: constant, halve"),
        (
            {"optimizer__options": {"beta": 0.9}},
            r"config\.optimizer\.options\.beta is no option of adam; known: b1, b2",
        ),
        (
            {"optimizer__learning_rate": -1.0},
            r"config\.optimizer\.learning_rate=-1\.0; expected a positive finite number",
        ),
        ({"duration": "200"}, r"config\.duration: duration '200': expected a positive number and a unit"),
        (
            {"optimizer__warmup": "1 hour"},
            r"config\.optimizer\.warmup: duration '1 hour': expected a positive number and a unit",
        ),
        ({"eval__protocol": "paper"}, r"evaluation protocol 'paper' is unknown; known: exact, authors"),
        ({"eval__single_task": (("semantic/mou", 0.4),)}, r"single_task contains semantic/mou of unknown direction"),
        (
            {"eval__single_task": (("sdf/miou", 0.4),)},
            r"metrics lacks sdf/miou; expected all metrics in single_task",
        ),
        (
            {"checkpoint__best_metric": "miou"},
            r"config\.checkpoint\.best_metric = 'miou' is not known; known: semantic/miou, semantic/pixel_accuracy, ",
        ),
        ({"mixing__tasks_per_step": 2}, r"config\.mixing\.tasks_per_step = 2 is for sets of labelled images; in "),
        ({"checkpoint__keep": 0}, r"config\.checkpoint\.keep = 0: expected at least 1"),
    ],
)
def test_bad_values_are_refused_before_data_are_read(fields, message):
    with pytest.raises(ValueError, match=message):
        Experiment.from_config(make_config(**fields))


def test_a_task_that_the_data_set_has_no_labels_for():
    config = load_config("cityscapes")
    config.tasks = ("semantic", "normal")
    with pytest.raises(ValueError, match=r"task 'normal' needs the target 'normal'; cityscapes has semantic, depth"):
        Experiment.from_config(config)


def test_unknown_fields_of_a_configuration_file():
    config = make_config()
    config.model.widht = 0.5
    with pytest.raises(ValueError, match=r"unknown fields config\.model\.widht; mtan_jax/config\.py lists all fields"):
        Experiment.from_config(config)


def test_image_size_that_cannot_be_halved_five_times():
    config = load_config("nyuv2")
    config.data.options.image_size = (288, 400)
    message = r"\(288, 400\) is not a multiple of 32, which the network needs; use \(288, 384\)"
    with pytest.raises(ValueError, match=message):
        Experiment.from_config(config)


def test_batches_that_four_devices_cannot_share():
    def check(**fields):
        experiment = Experiment.from_config(make_config(**fields))
        checks.check_eval_batch_size(experiment.config)
        checks.check_train_batch_size(experiment.config, experiment.data)

    check()
    checks.check_eval_batch_size(make_config(batch_size=6))  # evaluates a run that another machine trained
    with pytest.raises(
        ValueError, match=r"config\.batch_size=6 is not divisible by 4 devices; use a multiple of 4, such as 8"
    ):
        check(batch_size=6)
    message = r"config\.batch_size=12 is not divisible by 4 devices x 2 accumulation parts; use .* such as 16"
    with pytest.raises(ValueError, match=message):
        check(batch_size=12, accumulate=2)
    check(eval__batch_size=2)  # rounded up, since it does not affect exact metrics
    with pytest.raises(
        ValueError, match=r"config\.eval\.batch_size=2 is not divisible by 4 devices; use a multiple of 4, such as 4"
    ):
        check(eval__batch_size=2, eval__protocol="authors")


# What a run does with the configuration.


def test_weights_follow_functions_of_the_step_and_evaluations_are_averaged(tmp_path):
    weights = {
        "semantic": optax.linear_schedule(1.0, 0.0, transition_steps=4),
        "depth": lambda step: jnp.where(step < 2, 0.5, 3.0) * step,
        "normal": 2.0,
    }
    config = make_config(weighting="schedule", eval__average_last=3)
    config.weighting_options.schedule.weights = weights
    lines = run(config, tmp_path)
    logged = [[line[f"weights/{name}"] for name in weights] for line in lines["train"]]
    assert logged == [[1.0, 0.0, 2.0], [0.75, 0.5, 2.0], [0.5, 6.0, 2.0], [0.25, 9.0, 2.0]]
    (mean,) = lines["val_mean"]
    assert (mean["step"], len(lines["val"])) == (4, 4)
    for name in ("semantic/miou", "depth/abs_error", "normal/median", "normal/loss"):
        values = [line[name] for line in lines["val"]]
        assert mean[name] == pytest.approx((values[1] + values[2] + values[3]) / 3, rel=1e-12)
    assert len(set(values)) == 4  # the last; were they all the same, any average would pass


def test_the_learning_rate_of_each_step_is_logged(tmp_path):
    fields = {"learning_rate": 0.001, "schedule": "halve", "halve_every": "2 steps"}
    lines = run(make_config(**{f"optimizer__{name}": value for name, value in fields.items()}), tmp_path)
    assert [line["learning_rate"] for line in lines["train"]] == [0.001, 0.001, 0.0005, 0.0005]


def test_the_learning_rate_is_asked_for_before_the_next_step():
    """Asked for when it is written, it would wait for the step that is under way by then."""
    logger = window_log.WindowLogger(types.SimpleNamespace(tasks=("depth",), learning_rate=float), writer=None)
    asked = []
    logger._learning_rate = asked.append
    logger.take(5, Window.empty(1), ())
    assert asked == [4]


class Recorder:
    """Notes which fields of a configuration are asked for."""

    def __init__(self, config, monkeypatch):
        self.read = set()
        self._config = config  # kept: were it freed, another configuration could take the ids of its nodes
        names = {id(config): ""}
        for name in config_module._leaves(default_config()):
            node, path = config, ""
            for part in name.split(".")[:-1]:
                node, path = node[part], f"{path}{part}."
                names[id(node)] = path
        original = ml_collections.ConfigDict.__getitem__

        def recorded(node, key):
            if id(node) in names:
                self.read.add(f"{names[id(node)]}{key}")
            return original(node, key)

        monkeypatch.setattr(ml_collections.ConfigDict, "__getitem__", recorded)


@pytest.mark.parametrize(
    ("module", "schedule"), [(toy_config, "halve"), (toy_sets_config, "pieces")], ids=["dense", "sets"]
)
def test_every_field_is_read(module, schedule, tmp_path, run_main, monkeypatch):
    # By what trains, not by what only checks or compares all fields.
    for check in ("check_values", "check_durations", "check_weighting", "check_single_task"):
        monkeypatch.setattr(checks, check, lambda *args: None)
    monkeypatch.setattr(workdir, "claim", lambda *args, **options: None)
    # A copy reads every field.
    monkeypatch.setattr(ml_collections.ConfigDict, "copy_and_resolve_references", lambda config: config)
    found = {}
    original = main.run_command

    def recorded():
        found["recorder"] = Recorder(main.CONFIG.value, monkeypatch)
        original()

    monkeypatch.setattr(main, "run_command", recorded)
    run_main(
        f"--config={module.__file__}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.data_dir={tmp_path / 'data'}",
        f"--config.optimizer.schedule={schedule}",
        "--config.duration=1 steps",
    )
    # Fields of schedules and of sets of images are read where they mean something.
    elsewhere = {
        toy_config: lambda name: name == "optimizer.pieces",
        toy_sets_config: lambda name: name == "optimizer.halve_every",
    }[module]
    unread = config_module._leaves(default_config()) - found["recorder"].read
    planned = {"plan.topology", "plan.fusion_memory"}  # of --mode=plan: tests/commands/test_plan.py
    assert {name for name in unread if not elsewhere(name)} == planned
    assert set(FREE_FIELDS) - planned < found["recorder"].read


# What is not finite.


class Broken(ToyBuilder):
    """Toy data in which one image of training has a pixel that is not a number."""

    VERSION = "1.0.1"
    image_dtype = np.float32
    broken: str

    def example(self, split, index):
        example = super().example(split, index)
        image = example["image"].astype(np.float32) / 255
        if example["id"] == self.broken:
            image[2, 3, 1] = np.nan
        return {**example, "image": image}


def assert_finite_and_resumable(config, folder, last_step):
    """The newest checkpoint is of the step before the bad one, and all that was kept is finite."""
    experiment = Experiment.from_config(config)
    name, higher = experiment.best_metric
    checkpoints = Checkpoints(folder / "run", keep=2, best_metric=name, higher_is_better=higher)
    assert checkpoints.steps()[-1] == last_step
    state = checkpoints.restore(experiment.abstract_state())
    checkpoints.close()
    assert all(np.isfinite(leaf).all() for leaf in state.params["semantic"].values())
    assert all(np.isfinite(leaf).all() for leaf in state.batch_stats["BatchNorm_0"].values())
    for lines in lines_of(folder / "run").values():
        assert all(line["step"] <= last_step for line in lines)
        assert all(np.isfinite(value) for line in lines for value in line.values() if not isinstance(value, str))


def test_a_loss_that_is_not_finite_stops_the_run_and_the_last_checkpoint_stands(tmp_path, monkeypatch):
    config = make_config(tasks=("semantic", "depth"), data__data_dir=str(tmp_path / "data"))
    experiment = Experiment.from_config(config)
    experiment.data.prepare()
    batches = experiment.train_batches(0)
    next(batches)
    Broken.broken = str(next(batches)["id"][0])  # the second step meets it
    monkeypatch.setitem(DATASETS, "toy", Broken)
    experiment = Experiment.from_config(config)
    experiment.data.prepare()
    message = (
        r"the loss of semantic, depth was not finite at step 2; the checkpoints before it remain\. "
        r"Try a lower config\.optimizer\.learning_rate, config\.optimizer\.clip_norm=1\.0, .*check the data"
    )
    for _ in range(2):  # the second time it resumes, and meets the same batch
        with pytest.raises(window_log.NonFiniteError, match=message):
            loop.train(experiment, tmp_path / "run")
    assert_finite_and_resumable(config, tmp_path, 1)


def test_a_learning_rate_that_is_far_too_large(tmp_path):
    config = make_config(tasks=("semantic", "depth"), optimizer__learning_rate=1e30, duration="20 steps")
    with pytest.raises(window_log.NonFiniteError, match=r"was not finite at step \d+; .* Try a lower") as error:
        run(config, tmp_path)
    assert "nan" not in (tmp_path / "run" / "metrics.jsonl").read_text().lower()
    assert int(str(error.value).split("at step ")[1].split(";")[0]) <= 5


# The configuration files.

SIZES = {
    "streets": (64, 128),
    "own_network": (64, 128),
    "own_schedule": (64, 128),
    "nyuv2": (288, 384),
    "cityscapes": (128, 256),
}


IMAGE_SIZES = {"mini_decathlon": (32, 32), "decathlon": (72, 72)}


@pytest.mark.parametrize("name", IMAGE_SIZES)
def test_configuration_files_of_sets_of_images(name):
    experiment = Experiment.from_config(load_config(name))
    assert experiment.data.info.image_size == IMAGE_SIZES[name]
    assert experiment.task_names == tuple(experiment.data.info.sets)
    assert load_config(name, "arch=piggyback,width=0.5").model.arch == "piggyback"
    smoke = load_config(name, "smoke")
    assert smoke.duration == "4 steps"
    assert set(smoke.weighting_options.static.weights) == set(experiment.task_names)
    with pytest.raises(ArgumentError, match="config argument 'protocol=paper' is not known; known: smoke, arch="):
        load_config(name, "protocol=paper")


@pytest.mark.parametrize(
    ("argument", "fields"),
    [
        ("sets=imagenet12,arch=split", {}),  # what others adapt
        ("sets=dtd+svhn", {}),
        ("arch=series_adapters", {"mixing.tasks": ("dtd",)}),  # a task added later
    ],
)
def test_parts_of_the_decathlon(argument, fields):
    config = load_config("decathlon", argument)
    for name, value in fields.items():
        config.update_from_flattened_dict({name: value})
    Experiment.from_config(config)


def test_the_decathlons_score_needs_no_numbers_typed_in():
    """Networks with the published errors have 250 a set; sets of one's own have no score."""
    for argument, count in (("", 10), ("sets=dtd+svhn", 2)):
        experiment = Experiment.from_config(load_config("decathlon", argument))
        accuracies = {f"{name}/accuracy": 1 - FINETUNING_ERRORS[name] for name in experiment.task_names}
        summary = experiment.data.summarize(accuracies, experiment.single_task)
        assert summary["decathlon/score"] == pytest.approx(250 * count)
    assert load_config("decathlon", "sets=dtd+mine").eval.single_task == ()


def test_the_authors_schedule_of_the_decathlon():
    """Halved every 50 of 400 epochs; from epoch 300 without ImageNet, at 0.01 (their script)."""
    config = load_config("decathlon")
    sizes = dict.fromkeys(config.tasks, 1280) | {"imagenet12": 128_000}
    set_order = SetOrder(config.mixing.order, sizes, config.batch_size, until=dict(config.mixing.until))
    to_steps = functools.partial(duration.to_steps, epochs_to_steps=set_order.epochs_to_steps, batch_size=128)
    rate = build_schedule(config.optimizer, to_steps(config.duration), to_steps)
    assert set_order.epochs_to_steps(1) == 1000 + 9 * 10
    assert to_steps(config.duration) == 300 * 1090 + 100 * 90
    theirs = {0: 0.1, 49: 0.1, 50: 0.05, 120: 0.025, 299: 0.1 * 0.5**5, 300: 0.01, 349: 0.01, 350: 0.005, 399: 0.005}
    for epoch, expected in theirs.items():
        assert rate(set_order.epochs_to_steps(epoch)) == pytest.approx(expected), epoch


@pytest.mark.parametrize("name", sorted(SIZES))
def test_configuration_files(name):
    assert {path.stem for path in CONFIGS.glob("*.py")} == {*SIZES, *IMAGE_SIZES}
    experiment = Experiment.from_config(load_config(name))
    assert experiment.data.info.image_size == SIZES[name]
    # As a resumed run compares: functions, which each reading of the file makes anew, by what they give.
    assert flatten_config(experiment.config) == flatten_config(load_config(name, "protocol=paper"))
    benchmark = load_config(name, "protocol=benchmark,width=0.5")
    assert benchmark.data.augment
    assert not experiment.config.data.augment
    assert benchmark.model.width == 0.5
    smoke = Experiment.from_config(load_config(name, "smoke"))
    assert smoke.config.duration == "4 steps"
    assert smoke.config.model.width == 0.0625
    # Static weights can be set on the command line only where there is a field a task.
    assert set(smoke.config.weighting_options.static.weights) == set(smoke.task_names)
    if name in ("nyuv2", "cityscapes"):
        assert experiment.config.optimizer.halve_every == "100 epochs"
        assert benchmark.eval.average_last == 10
        with pytest.raises(RawDataError, match=r"configs/streets\.py needs no raw data"):
            smoke.data.prepare()


def test_gradient_methods_and_telemetry_on_a_users_own_network(tmp_path):
    # Its heads are not named head_TASK, so the choice by names, the default of built-in architectures, would be wrong.
    config = make_config(weighting="telemetry+pcgrad", duration="3 steps", log_every="2 steps")
    lines = run(config, tmp_path)
    names = [name for name in lines["train"][-1] if name.startswith("telemetry/")]
    assert len(names) == 3 + 3 + 3
    assert all(np.isfinite(lines["train"][-1][name]) for name in names)
    assert (tmp_path / "run" / "figures" / "telemetry.png").exists()
    by_names = make_config(weighting=(("pcgrad", {"shared": "all_but_heads"}),), duration="3 steps")
    with pytest.raises(ValueError, match=r"selects all parameters, but some belong to one task: \[depth/bias, depth/"):
        run(by_names, tmp_path / "by_names")
