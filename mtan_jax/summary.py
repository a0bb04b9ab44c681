"""The network in numbers: shapes by stage, parameters by part, and their ratio to one single-task network."""

import collections
from typing import Any

import jax
import jax.numpy as jnp

from mtan_jax.experiment import Experiment
from mtan_jax.models import Backbone, build_backbone, build_model
from mtan_jax.models.stage import abstract_stages
from mtan_jax.parts import part_of


def count(tree: Any) -> int:
    """Number of parameters in a tree of arrays or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def count_parts(params: Any, tasks: tuple[str, ...]) -> dict[str, int]:
    """Parameters by part of the network (`mtan_jax.parts`); parts that the network lacks are left out."""
    counts: collections.Counter[str] = collections.Counter()
    for path, leaf in jax.tree.leaves_with_path(params):
        counts[part_of(tuple(key.key for key in path), tasks)] += leaf.size
    return dict(counts)


def stage_table(backbone: Backbone, image_size: tuple[int, int]) -> str:
    """A table of a backbone's stages for one image, as text: the fields of `mtan_jax.models.Stage`.

    `look` is what a mask looks at and `gate` what it gates, height x width x channels; `hidden` are the channels within
    the mask. Attended features pass a module that the tasks share where `shared` says yes, and are halved after the
    stage ("down") or doubled before it ("up").
    """
    rows = [("stage", "look", "gate", "hidden", "shared", "resample")]
    for name, stage in abstract_stages(backbone, image_size).items():
        look, gate = ("x".join(map(str, features.shape[1:])) for features in (stage.look, stage.gate))
        rows.append((name, look, gate, str(stage.hidden), "yes" if stage.shared else "-", stage.resample or "-"))
    return "\n".join("{:<16}{:>15}{:>15}{:>8}{:>8}{:>10}".format(*row) for row in rows)


def summary(experiment: Experiment) -> str:
    """Tables of the backbone's stages and of the network's modules and parts, as text.

    The ratio is that of the paper's column "#P.": to a network of the same backbone and the head of the first task
    alone. Log-variances of the uncertainty weighting belong to the optimiser and are not counted.
    """
    params = experiment.abstract_variables()["params"]
    rows = []
    for name, module in params.items():
        rows.append((name, count(module)))
        if isinstance(module, dict):
            rows += [(f"  {inner}", count(part)) for inner, part in module.items()]
    total = count(params)
    single = _single_task(experiment)
    config = experiment.config.model
    height, width = experiment.data_info.image_size
    lines = [
        f"{config.arch} on {config.backbone}, width {config.width:g}, {config.dtype}, image {height}x{width}",
        "tasks and their channels: " + ", ".join(f"{task.name} {task.channels}" for task in experiment.tasks),
        "",
        stage_table(build_backbone(config), experiment.data_info.image_size),
        "",
        f"{'module':<28}{'parameters':>14}",
        *(f"{name:<28}{number:>14,}" for name, number in rows),
        "",
        f"{'part':<28}{'parameters':>14}",
        *(f"{name:<28}{number:>14,}" for name, number in count_parts(params, experiment.task_names).items()),
        f"{'total':<28}{total:>14,}",
        f"{f'single task ({experiment.tasks[0].name})':<28}{single:>14,}",
        f"{'ratio':<28}{total / single:>14.4f}",
    ]
    return "\n".join(lines)


def _single_task(experiment: Experiment) -> int:
    """Parameters of one network of the first task alone, on the same backbone."""
    config = experiment.config.model.copy_and_resolve_references()
    config.arch = "single"
    model = build_model(config, experiment.tasks[:1])
    image = jnp.zeros((1, *experiment.data_info.image_size, 3))
    return count(jax.eval_shape(lambda key: model.init(key, image, train=False), jax.random.key(0))["params"])
