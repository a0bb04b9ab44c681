"""The fields of every configuration, and the argument after ':' on the command line."""

import dataclasses
import functools
from typing import Literal, get_args

from ml_collections import ConfigDict, config_dict

from mtan_jax.runtime import home

Protocol = Literal["paper", "benchmark"]


def default_config() -> ConfigDict:
    """Every field with its default. Files under configs/ change what their experiment changes."""
    config = ConfigDict()
    config.seed = 0  # for parameters, data order and augmentation
    config.tasks = ("semantic", "depth", "normal")  # names, or Task objects; for sets of images, names of sets

    config.data = ConfigDict()
    config.data.name = "streets"  # name of the dataset
    config.data.data_dir = config_dict.placeholder(str)  # folder of prepared datasets; None: ~/tensorflow_datasets
    config.data.raw_dir = config_dict.placeholder(
        str
    )  # folder of the raw release; None: DATA_DIR/downloads/manual/NAME
    config.data.options = ConfigDict()  # keyword arguments of the dataset's builder
    config.data.augment = False  # the authors' random scale, crop and flip; for sets of images, crop and flip
    config.data.workers = 0  # processes that load and augment; 0: threads of the main process
    config.data.prepare = "once"  # once: prepare if missing; again: always prepare
    config.data.prepare_workers = config_dict.placeholder(int)  # processes that prepare; None: one per core

    config.mixing = ConfigDict()  # for sets of labeled images, each of which is a task
    config.mixing.order = "random"  # random | in_turn | whole_sets: which set each step draws from
    config.mixing.temperature = 1.0  # for "random": 1 draws in proportion to size, larger values more evenly
    config.mixing.tasks_per_step = 1  # sets per batch, in equal shares
    config.mixing.tasks = ()  # names of the sets to train on; (): all
    config.mixing.until = ConfigDict()  # for "whole_sets": {task: number of epochs after which it is left out}

    config.model = ConfigDict()
    config.model.arch = "mtan"  # name of the architecture
    config.model.backbone = "segnet"  # name of the backbone
    config.model.width = 1.0  # factor on the channels of every layer except the heads' last
    config.model.adapter_rank = 0.5  # for "parallel_svd": rank of the adapters / channels of their output
    config.model.dtype = "float32"  # dtype of the computation; "bfloat16" on TPUs and GPUs
    config.model.param_dtype = "float32"  # dtype of parameters and running statistics
    config.model.sync_batch_norm = True  # whether BatchNorm's moments are over all devices; False: per device
    config.model.init_from = config_dict.placeholder(str)  # PyTorch weights or a working directory; None: random

    # Names joined by "+", or (("dwa", {"temperature": 2.0}), my_method); see docs/weighting.md.
    config.weighting = config_dict.FieldReference("equal", field_type=object)
    # Options of known tasks that are not in `tasks` are ignored.
    config.weighting_options = ConfigDict()  # {method: keyword arguments}
    config.weighting_options.static = ConfigDict({"weights": dict.fromkeys(config.tasks, 1.0)})  # {task: weight}
    weights = _of_any_type({})
    # {task: number or function of the step}, or one function (step, losses) for all tasks; see docs/schedules.md.
    config.weighting_options.schedule = ConfigDict({"weights": weights})
    config.weighting_options.dwa = ConfigDict({"temperature": 2.0, "variant": "mtan"})  # variant: mtan | nash
    config.weighting_options.uncertainty = ConfigDict({"variant": "mtan"})  # variant: mtan | nash
    # gamma: focusing exponent; alpha: share of the new value in the running average.
    config.weighting_options.dtp = ConfigDict({"gamma": 1.0, "alpha": 0.1})
    # mu: smoothing; warmup_epochs: epochs before the one whose mean losses scale the losses, None: 4.
    config.weighting_options.stch = ConfigDict({"mu": 1.0, "warmup_epochs": config_dict.placeholder(int)})
    # penalty: of the angle between the losses and the preference; theta: of the distance from its line. Both also have
    # the option weights, the preference, {task: number}; default: equal.
    config.weighting_options.cosmos = ConfigDict({"penalty": 2.0})
    config.weighting_options.pbi = ConfigDict({"theta": 5.0})
    # groups: number of groups of tasks with one weight each; step_size: rate of the indicators of risk.
    config.weighting_options.go4align = ConfigDict({"groups": 2, "step_size": 1e-4})
    # penalty: factor of the differences between weighted losses; normalize: none | initial | log.
    config.weighting_options.ldc_mtl = ConfigDict({"penalty": 0.01, "normalize": "none"})
    config.weighting_options.rlw = ConfigDict({"distribution": "normal"})  # distribution: normal | dirichlet
    # weight_rate: learning rate of the task weights; decay: their weight decay.
    config.weighting_options.famo = ConfigDict({"weight_rate": 0.025, "decay": 0.001})
    # meta_rate: learning rate of the task weights; initial: their initial value. Auto-Lambda reads a second batch per
    # step, with its own `data.workers`.
    config.weighting_options.auto_lambda = ConfigDict({"meta_rate": 1e-4, "initial": 0.1})
    config.weighting_options.auto_lambda.epsilon = 0.01  # step of the finite difference; 0: the exact derivative
    config.weighting_options.auto_lambda.primary = config_dict.placeholder(tuple)  # (task, ...); None: all
    # gamma: learning rate of the task weights; rho: regularization. MoDo reads a second batch per step, as Auto-Lambda.
    config.weighting_options.modo = ConfigDict({"gamma": 1e-3, "rho": 0.1})
    # meta_rate: learning rate of the task weights; virtual_rate: that of the virtual step; combine: mgda | sum. MOML
    # reads a second batch per step, as Auto-Lambda does.
    config.weighting_options.moml = ConfigDict({"meta_rate": 1e-3, "virtual_rate": 0.1, "combine": "mgda"})
    # scale: min | median | rmse; wrt: gradients with respect to the shared "parameters" or the shared "features". All
    # gradient methods but forum also have the options shared: all_but_heads | backbone | auto | all, and backward:
    # together | one_by_one | gram.
    config.weighting_options.aligned_mtl = ConfigDict({"scale": "min", "wrt": "parameters"})
    config.weighting_options.cagrad = ConfigDict({"c": 0.4, "rescale": "squared"})  # rescale: none | squared | linear
    # method: mgda | upgrad, whose weights are averaged; alpha: share of the old weights.
    config.weighting_options.cr_mogm = ConfigDict({"method": "mgda", "alpha": 0.9})
    # beta: share of the old value in the running average; beta_decay: exponent of its decay.
    config.weighting_options.db_mtl = ConfigDict({"beta": 0.9, "beta_decay": 0.0})
    # step_size: rate of the weights; variant: authors | paper.
    config.weighting_options.excess_mtl = ConfigDict({"step_size": 0.01, "variant": "authors"})
    config.weighting_options.fairgrad = ConfigDict({"alpha": 2.0})  # alpha: of alpha-fairness
    # rho: rate at which the constraint is enforced; meta_rate: learning rate of the task weights; inner_rate and
    # inner_steps: of the inner gradient descent. FORUM reads a second batch per step, as Auto-Lambda does.
    config.weighting_options.forum = ConfigDict({"rho": 0.1, "meta_rate": 1e-3, "inner_rate": 0.1, "inner_steps": 5})
    config.weighting_options.graddrop = ConfigDict({"leak": 0.0})  # leak: share of the dropped gradient that is kept
    config.weighting_options.gradnorm = ConfigDict({"alpha": 1.5, "variant": "paper"})  # variant: paper | libmtl
    config.weighting_options.gradvac = ConfigDict({"beta": 0.5})  # beta: share of the new cosine in the moving average
    config.weighting_options.imtl_g = ConfigDict({"wrt": "parameters"})  # wrt: parameters | features
    # num_byzantine: outliers among the gradients; num_selected: gradients that are averaged; distance: squared | plain.
    config.weighting_options.krum = ConfigDict({"num_byzantine": 0, "num_selected": 1, "distance": "squared"})
    # normalize: none | l2 | loss | loss+; wrt: parameters | features.
    config.weighting_options.mgda = ConfigDict({"normalize": "none", "wrt": "parameters"})
    # beta: rate of the gradients; gamma: rate of the weights; rho: regularization.
    config.weighting_options.moco = ConfigDict({"beta": 0.5, "gamma": 0.1, "rho": 0.0})
    # update_every: steps between updates of the weights; max_norm: largest norm of the shared gradient; None: no limit.
    config.weighting_options.nash_mtl = ConfigDict({"update_every": 1, "max_norm": 1.0})
    # pull: towards the mean gradient; rate and iterations: learning rate and number of iterations of the solver.
    config.weighting_options.sdmgrad = ConfigDict({"pull": 0.3, "rate": 10.0, "iterations": 20})
    # trim: gradients dropped on each side; None: as many as possible, which gives the median.
    config.weighting_options.trimmed_mean = ConfigDict({"trim": config_dict.placeholder(int)})

    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"  # adam | adamw | sgd
    config.optimizer.options = ConfigDict()  # further keyword arguments of the optax optimizer
    config.optimizer.learning_rate = 1e-4  # before the schedule
    config.optimizer.weight_decay = 0.0  # L2: added to the gradient, times the parameters; adamw decouples it
    config.optimizer.schedule = "constant"  # constant | halve | cosine | pieces
    config.optimizer.halve_every = "100 epochs"  # for "halve"
    config.optimizer.pieces = ()  # for "pieces": (("50 epochs", learning rate from then on), ...)
    config.optimizer.absent_tasks = "step"  # for tasks absent from a batch: step: also updated; rest: left unchanged
    config.optimizer.warmup = config_dict.placeholder(str)  # duration of linear warmup from 0; None: none
    config.optimizer.clip_norm = config_dict.placeholder(float)  # largest global norm of the gradient; None: no limit

    config.batch_size = 8  # examples per step, on all devices together
    config.accumulate = 1  # number of parts in which each device computes its rows, one after the other
    config.duration = "200 epochs"  # "N steps", "N epochs" or "N examples", as for all durations below
    config.log_every = "50 steps"  # how often losses are logged, averaged over these steps

    config.eval = ConfigDict()
    config.eval.every = "1 epochs"  # and at the end
    config.eval.batch_size = 8  # on all devices together; rounded up to a multiple of their number (if "exact")
    config.eval.protocol = "exact"  # exact: over all pixels of the split; authors: averaged over batches, as published
    config.eval.average_last = config_dict.placeholder(int)  # report the mean of the last N evaluations; None: do not
    config.eval.single_task = ()  # (("semantic/miou", value of a single-task network), ...) for Delta-m; (): none

    config.checkpoint = ConfigDict()
    config.checkpoint.every = "1 epochs"  # and at the end
    config.checkpoint.keep = 2  # number of newest checkpoints to keep, besides the best
    config.checkpoint.best_metric = config_dict.placeholder(str)  # None: the first task's main metric, or mean/accuracy

    config.plan = ConfigDict()
    config.plan.topology = config_dict.placeholder(str)  # for --mode=plan: TPU generation and shape, such as "v5e:2x4"
    config.plan.fusion_memory = 4096  # KiB of on-chip memory per fusion; less compiles faster; 0: as in training

    config.profile = config_dict.placeholder(str)  # "10:15": trace steps 10 to 15 into the folder `profile`; None: none

    # Folder of compiled programs, kept between runs; "": none. JAX_COMPILATION_CACHE_DIR replaces the default, and so
    # does the folder `compiled` in the working directory in a run of several processes.
    config.compilation_cache = home.COMPILATION_CACHE
    return config


def _of_any_type(value: object) -> config_dict.FieldReference:
    """A field whose value may have another type than its default."""
    return config_dict.FieldReference(value, field_type=object)


# Fields with keys of the user's choice.
OPEN_FIELDS = ("data.options", "mixing.until", "weighting_options", "optimizer.options")
# Fields whose values may change when a run is resumed, because they do not change results. (A resumed run does not read
# `init_from`.)
FREE_FIELDS = (
    *("data.data_dir", "data.raw_dir", "data.workers", "data.prepare", "data.prepare_workers", "model.init_from"),
    *("plan.topology", "plan.fusion_memory", "profile", "compilation_cache"),
)
# Fields that hold a duration.
DURATIONS = ("duration", "log_every", "eval.every", "checkpoint.every", "optimizer.halve_every", "optimizer.warmup")
# Lower bounds.
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
    """The argument after ':' is not known."""


@dataclasses.dataclass(frozen=True)
class Argument:
    """The argument after ':' in --config=configs/NAME.py:ARGUMENT; fields that it does not set are None.

    Attributes:
        smoke: a run of seconds that exercises everything once.
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
            text: the argument.
            keys: the keys that the configuration uses.

        Raises:
            ArgumentError: a key or value is not known; the message lists those that are.
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
        """Sets the fields of `config.model`."""
        for field in ("arch", "backbone", "width"):
            if getattr(self, field) is not None:
                config.model[field] = getattr(self, field)


def check_fields(config: ConfigDict) -> None:
    """Raises a ValueError that lists unknown and missing fields, or names a number below its lower bound."""
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
            raise ValueError(f"config.{name} = {value}: expected at least {least}")


def _leaves(config: ConfigDict, prefix: str = "") -> set[str]:
    leaves = set()
    for key in config:
        name, value = prefix + key, config.get(key)
        if isinstance(value, ConfigDict) and name not in OPEN_FIELDS:
            leaves |= _leaves(value, name + ".")
        else:
            leaves.add(name)
    return leaves
