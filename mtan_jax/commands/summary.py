"""The network in numbers: shapes by stage, parameters by part, and their ratio to one single-task network."""

import collections
import math
from typing import Any

import jax
import jax.numpy as jnp

from mtan_jax.commands.request import Request
from mtan_jax.experiment import Experiment
from mtan_jax.models import Backbone, build_backbone, build_model
from mtan_jax.models.stage import abstract_stages
from mtan_jax.training.open_run import open_run
from mtan_jax.weighting.sharing import part_of


def count(tree: Any) -> int:
    """Number of parameters in a tree of arrays or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def count_parts(params: Any, tasks: tuple[str, ...]) -> dict[str, int]:
    """Number of parameters per part of the network (`mtan_jax.weighting.sharing`), counted as in `kept`."""
    counts: collections.Counter[str] = collections.Counter()
    for path, leaf in jax.tree.leaves_with_path(params):
        counts[part_of(tuple(key.key for key in path), tasks)] += _kept(path, leaf)
    return dict(counts)


def kept(variables: Any) -> tuple[int, int]:
    """Parameters that must be kept of a network, and how many of them are heads.

    Frozen running statistics are no parameters, as those that move are none.
    """
    heads = sum(count(tree) for name, tree in variables["params"].items() if name.startswith("head_"))
    total = sum(_kept(path, leaf) for path, leaf in jax.tree.leaves_with_path(variables["params"]))
    for path, leaf in jax.tree.leaves_with_path(variables.get("frozen", {})):
        total += 0 if path[-1].key in ("mean", "var") else leaf.size
    return total, heads


def _kept(path: Any, leaf: Any) -> int:
    """Parameters that must be kept of one: of Piggyback's scores a bit a weight, each task's mask in words of 32."""
    return leaf.shape[0] * math.ceil(math.prod(leaf.shape[1:]) / 32) if path[-1].key == "own_scores" else leaf.size


def stage_table(backbone: Backbone, image_size: tuple[int, int], *, grouped: bool = False) -> str:
    """A table of a backbone's stages for one image, as text: the fields of `mtan_jax.models.Stage`.

    `look` is what a mask looks at and `gate` what it gates, height x width x channels; `hidden` are the channels within
    the mask. Attended features pass a module that the tasks share where `shared` says yes, and are halved after the
    stage ("down") or doubled before it ("up"). `grouped`: see `abstract_stages`.
    """
    rows = [("stage", "look", "gate", "hidden", "shared", "resample")]
    for name, stage in abstract_stages(backbone, image_size, grouped=grouped).items():
        look, gate = ("x".join(map(str, features.shape[-3:])) for features in (stage.look, stage.gate))
        rows.append((name, look, gate, str(stage.hidden), "yes" if stage.shared else "-", stage.resample or "-"))
    return "\n".join("{:<16}{:>15}{:>15}{:>8}{:>8}{:>10}".format(*row) for row in rows)


def summary(experiment: Experiment) -> str:
    """Tables of the backbone's stages and of the network's modules and parts, as text.

    The ratio is that of the paper's column "#P.": to a network of the same backbone and the head of the first task
    alone; for images of single tasks, to one backbone without any head, and the ratio without heads too (published ones
    are of either kind). Log-variances of the uncertainty weighting belong to the optimiser and are not counted; for
    masks of weights see `kept`.
    """
    variables = experiment.abstract_variables
    params = variables["params"]
    rows = []
    for name, module in params.items():
        rows.append((name, count(module)))
        if isinstance(module, dict):
            rows += [(f"  {inner}", count(part)) for inner, part in module.items()]
    total, heads = kept(variables)
    parts = count_parts(params, experiment.task_names)
    if total > sum(parts.values()):
        parts["frozen"] = total - sum(parts.values())
    grouped = experiment.data.groups is not None
    single = _single_task(experiment)
    of_what = "backbone alone" if grouped else f"single task ({experiment.tasks[0].name})"
    config = experiment.config.model
    height, width = experiment.data.info.image_size
    backbone = build_backbone(config, tasks=experiment.task_names)
    lines = [
        f"{config.arch} on {config.backbone}, width {config.width:g}, {config.dtype}, image {height}x{width}",
        "tasks and their channels: " + ", ".join(f"{task.name} {task.channels}" for task in experiment.tasks),
        "",
        stage_table(backbone, experiment.data.info.image_size, grouped=grouped),
        "",
        f"{'module':<28}{'parameters':>14}",
        *(f"{name:<28}{number:>14,}" for name, number in rows),
        "",
        f"{'part':<28}{'parameters':>14}",
        *(f"{name:<28}{number:>14,}" for name, number in parts.items()),
        f"{'total':<28}{total:>14,}",
        f"{of_what:<28}{single:>14,}",
        f"{'ratio':<28}{total / single:>14.4f}",
        *([f"{'ratio without heads':<28}{(total - heads) / single:>14.4f}"] if grouped else []),
    ]
    return "\n".join(lines)


def _single_task(experiment: Experiment) -> int:
    """Parameters of one network of the first task alone, on the same backbone; without its head for whole images."""
    config = experiment.config.model.copy_and_resolve_references()
    config.arch = "single"
    model = build_model(config, experiment.tasks[:1])
    image = jnp.zeros((1, *experiment.data.info.image_size, 3))
    params = jax.eval_shape(lambda key: model.init(key, image, train=False), jax.random.key(0))["params"]
    return count(params["backbone"] if experiment.data.groups is not None else params)


def run(request: Request) -> None:
    """`--mode=summary`: prints the network in numbers."""
    print(summary(open_run(request.config, request.workdir)))
