"""The fields of every configuration, and the text after ':' on the command line."""

import dataclasses
import functools
from typing import Literal, get_args

from ml_collections import ConfigDict, config_dict

Protocol = Literal["paper", "benchmark"]


def default_config() -> ConfigDict:
    """Every field there is, with its default. Files under configs/ change what their experiment changes."""
    config = ConfigDict()
    config.seed = 0  # of parameters, order of the data, augmentation
    config.tasks = ("semantic", "depth", "normal")  # names in mtan_jax.tasks.TASKS, or Tasks of your own; or of sets

    config.data = ConfigDict()
    config.data.name = "streets"  # a name in mtan_jax.data.DATASETS
    config.data.data_dir = config_dict.placeholder(str)  # prepared data sets; None: ~/tensorflow_datasets
    config.data.raw_dir = config_dict.placeholder(str)  # the raw release; not needed by streets
    config.data.options = ConfigDict()  # keyword arguments of the data set's builder
    config.data.augment = False  # random scale, crop and flip, as the authors do; of sets of images crop and flip
    config.data.workers = 0  # processes that read and augment; 0: threads of this one
    config.data.prepare = "once"  # once | again: whether a prepared data set is used, or prepared in any case
    config.data.prepare_workers = config_dict.placeholder(int)  # processes that prepare; None: one per core

    config.mixing = ConfigDict()  # of sets of labelled images, each a task
    config.mixing.order = "random"  # random | in_turn | whole_sets: how steps choose their sets
    config.mixing.temperature = 1.0  # of "random": 1 by size, larger is more even
    config.mixing.tasks_per_step = 1  # sets in a batch, with equal shares
    config.mixing.tasks = ()  # those that are trained on; (): all
    config.mixing.until = ConfigDict()  # of "whole_sets": {task: epochs after which it is left out}

    config.model = ConfigDict()
    config.model.arch = "mtan"  # a name in mtan_jax.models.ARCHITECTURES; or in IMAGE_ARCHITECTURES, of sets of images
    config.model.backbone = "segnet"  # a name in mtan_jax.models.BACKBONES; or in IMAGE_BACKBONES
    config.model.width = 1.0  # multiplies the channels of every layer but the heads' last
    config.model.dtype = "float32"  # of the computation; "bfloat16" on TPUs and GPUs
    config.model.param_dtype = "float32"  # of parameters and running statistics
    config.model.sync_batch_norm = True  # moments over all devices; False: each device its own
    config.model.init_from = config_dict.placeholder(str)  # PyTorch weights, or a working directory; None: random

    # Or (("dwa", {"temperature": 2.0}), my_method); see docs/weighting.md.
    config.weighting = config_dict.FieldReference("equal", field_type=object)  # names in METHODS, joined by "+"
    # What is said here of known tasks that are not in `tasks` is ignored.
    config.weighting_options = ConfigDict()  # {method: keyword arguments}
    config.weighting_options.static = ConfigDict({"weights": dict.fromkeys(config.tasks, 1.0)})  # {task: weight}
    weights = _of_any_type({})  # {task: number or function of the step}; or a function (step, losses) of all tasks
    config.weighting_options.schedule = ConfigDict({"weights": weights})  # see docs/schedules.md
    config.weighting_options.dwa = ConfigDict({"temperature": 2.0, "variant": "mtan"})  # mtan | nash
    config.weighting_options.uncertainty = ConfigDict({"variant": "mtan"})  # mtan | nash
    config.weighting_options.dtp = ConfigDict({"gamma": 1.0, "alpha": 0.1})  # focus; share of the new in the average
    config.weighting_options.stch = ConfigDict({"mu": 1.0, "warmup_epochs": 4})  # smoothness; epochs
    config.weighting_options.rlw = ConfigDict({"distribution": "normal"})  # normal | dirichlet
    config.weighting_options.famo = ConfigDict({"weight_rate": 0.025, "decay": 0.001})  # of the logits
    # Reads a second batch a step, with its own `data.workers`.
    config.weighting_options.auto_lambda = ConfigDict({"meta_rate": 1e-4, "initial": 0.1})  # rate and start of lambda
    config.weighting_options.auto_lambda.epsilon = 0.01  # of the difference quotient; 0 is exact
    config.weighting_options.auto_lambda.primary = config_dict.placeholder(tuple)  # (task, ...); None: all
    # Of methods that combine gradients: "shared" (backbone | all_but_heads) and "backward" (together | one_by_one) too.
    # "wrt": gradients with respect to the shared parameters, or to the features that the tasks share.
    config.weighting_options.aligned_mtl = ConfigDict({"scale": "min", "wrt": "parameters"})  # min | median | rmse
    config.weighting_options.cagrad = ConfigDict({"c": 0.4, "rescale": "squared"})  # none | squared | linear
    config.weighting_options.db_mtl = ConfigDict({"beta": 0.9, "beta_decay": 0.0})  # share of the old mean; its fall
    config.weighting_options.excess_mtl = ConfigDict({"step_size": 0.01, "variant": "authors"})  # authors | paper
    config.weighting_options.fairgrad = ConfigDict({"alpha": 2.0})  # of alpha-fairness
    config.weighting_options.graddrop = ConfigDict({"leak": 0.0})  # share of what is left out that is kept
    config.weighting_options.gradnorm = ConfigDict({"alpha": 1.5, "variant": "paper"})  # paper | libmtl
    config.weighting_options.gradvac = ConfigDict({"beta": 0.5})  # share of the new cosine in the mean
    config.weighting_options.imtl_g = ConfigDict({"wrt": "parameters"})  # parameters | features
    config.weighting_options.mgda = ConfigDict({"normalize": "none", "wrt": "parameters"})  # none | l2 | loss | loss+
    config.weighting_options.moco = ConfigDict({"beta": 0.5, "gamma": 0.1, "rho": 0.0})  # rates; pull to equal weights
    config.weighting_options.nash_mtl = ConfigDict({"update_every": 1, "max_norm": 1.0})  # steps; norm or None
    config.weighting_options.sdmgrad = ConfigDict({"pull": 0.3, "rate": 10.0, "iterations": 20})  # to the mean; search

    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"  # adam | adamw | sgd
    config.optimizer.options = ConfigDict()  # further keyword arguments of the optax optimiser
    config.optimizer.learning_rate = 1e-4  # before the schedule
    config.optimizer.weight_decay = 0.0  # added to the gradient, times the parameters (L2); adamw has its own
    config.optimizer.schedule = "constant"  # constant | halve | cosine | pieces
    config.optimizer.halve_every = "100 epochs"  # for "halve"
    config.optimizer.pieces = ()  # for "pieces": (("50 epochs", rate from then on), ...)
    config.optimizer.absent_tasks = "step"  # "rest": steps without examples of a task leave what is its own alone
    config.optimizer.warmup = config_dict.placeholder(str)  # duration of linear growth from 0; None: none
    config.optimizer.clip_norm = config_dict.placeholder(float)  # largest global norm of the gradient; None: any

    config.batch_size = 8  # examples a step, of all devices together
    config.accumulate = 1  # parts that a device's rows pass the network in, one after the other
    config.duration = "200 epochs"  # "N steps", "N epochs" or "N examples", here and below
    config.log_every = "50 steps"  # a line of losses, means over these steps

    config.eval = ConfigDict()
    config.eval.every = "1 epochs"  # and at the end
    config.eval.batch_size = 8  # of all devices together
    config.eval.protocol = "exact"  # exact: all pixels weigh the same; authors: means over batches, as published
    config.eval.average_last = config_dict.placeholder(int)  # mean over the last N evaluations, at the end; None: none
    config.eval.single_task = ()  # (("semantic/miou", that of a single-task network), ...) for Delta-m; (): without

    config.checkpoint = ConfigDict()
    config.checkpoint.every = "1 epochs"  # and at the end
    config.checkpoint.keep = 2  # newest checkpoints that stay, besides the best
    config.checkpoint.best_metric = config_dict.placeholder(str)  # None: first task's main metric, mean/accuracy

    config.plan = ConfigDict()
    config.plan.topology = config_dict.placeholder(str)  # for --mode=plan: a TPU's kind and sides, such as "v5e:2x4"
    config.plan.fusion_memory = 4096  # KiB on chip that a fusion may take; less compiles faster; 0: as in training

    config.compilation_cache = "~/.cache/mtan_jax"  # compiled programs, kept from run to run; "" for none
    return config


def _of_any_type(value: object) -> config_dict.FieldReference:
    """A field that takes values of other types than its default."""
    return config_dict.FieldReference(value, field_type=object)


# Fields whose keys are the user's.
OPEN_FIELDS = ("data.options", "mixing.until", "weighting_options", "optimizer.options")
# Fields that do not change results, so a run may be resumed with others. (A resumed run does not read `init_from`.)
FREE_FIELDS = (
    *("data.data_dir", "data.raw_dir", "data.workers", "data.prepare", "data.prepare_workers", "model.init_from"),
    *("plan.topology", "plan.fusion_memory", "compilation_cache"),
)
# Fields that hold a length of training.
DURATIONS = ("duration", "log_every", "eval.every", "checkpoint.every", "optimizer.halve_every", "optimizer.warmup")
# The least that makes sense in these fields.
LEAST = {
    "seed": 0,
    "data.workers": 0,
    "data.prepare_workers": 1,
    "plan.fusion_memory": 0,
    "batch_size": 1,
    "accumulate": 1,
    "eval.batch_size": 1,
    "eval.average_last": 1,
    "checkpoint.keep": 1,
}


class ArgumentError(ValueError):
    """What stands after ':' is not known."""


@dataclasses.dataclass(frozen=True)
class Argument:
    """What stands after ':' in --config=configs/NAME.py:..., None where nothing is said.

    Attributes:
        smoke: a run of seconds that tries everything once.
        arch: `config.model.arch`.
        backbone: `config.model.backbone`.
        width: `config.model.width`.
        protocol: "paper" (as in the paper) or "benchmark" (as in the later benchmarks, with augmentation).
        sets: `config.tasks`, names joined by "+".
    """

    smoke: bool = False
    arch: str | None = None
    backbone: str | None = None
    width: float | None = None
    protocol: Protocol | None = None
    sets: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, text: str | None, keys: tuple[str, ...] = ("arch", "backbone", "width", "protocol")) -> "Argument":
        """Reads "smoke" and "key=value" pairs, joined by commas.

        Args:
            text: what stands after ':'.
            keys: those that the configuration has a use for.

        Raises:
            ArgumentError: for anything else; it lists what is known.
        """
        values: dict = {}
        for item in filter(None, (text or "").split(",")):
            key, equals, value = item.partition("=")
            if key not in ("smoke", *keys) or (key == "smoke") == bool(equals):
                raise ArgumentError(
                    f"config argument {item!r} is not known; known: smoke, {', '.join(f'{k}=' for k in keys)} "
                    "joined by commas, as in configs/streets.py:smoke,width=0.25"
                )
            values[key] = True if key == "smoke" else value
        if "width" in values:
            try:
                values["width"] = float(values["width"])
            except ValueError:
                raise ArgumentError(f"config argument width={values['width']}: a number is needed") from None
        if "sets" in values:
            values["sets"] = tuple(values["sets"].split("+"))
        if values.get("protocol", "paper") not in get_args(Protocol):
            raise ArgumentError(
                f"config argument protocol={values['protocol']}: known: {', '.join(get_args(Protocol))}"
            )
        return cls(**values)

    def apply(self, config: ConfigDict) -> None:
        """Sets what is said of the model."""
        for field in ("arch", "backbone", "width"):
            if getattr(self, field) is not None:
                config.model[field] = getattr(self, field)


def check_fields(config: ConfigDict) -> None:
    """Raises a ValueError for unknown and missing fields, which it lists, and for numbers that are too small."""
    known, found = _leaves(default_config()), _leaves(config)
    unknown, missing = sorted(found - known), sorted(known - found)
    if unknown or missing:
        raise ValueError(
            "the configuration has "
            + " and ".join(
                f"{word} fields config.{', config.'.join(names)}"
                for word, names in (("unknown", unknown), ("no", missing))
                if names
            )
            + "; mtan_jax/config.py lists all fields"
        )
    for name, least in LEAST.items():
        value = functools.reduce(getattr, name.split("."), config)
        if value is not None and value < least:
            raise ValueError(f"config.{name} = {value}: a number of at least {least} is needed")


def _leaves(config: ConfigDict, prefix: str = "") -> set[str]:
    leaves = set()
    for key in config:
        name, value = prefix + key, config.get(key)
        if isinstance(value, ConfigDict) and name not in OPEN_FIELDS:
            leaves |= _leaves(value, name + ".")
        else:
            leaves.add(name)
    return leaves
