"""Summarizes a network: shapes per stage, parameters per part, and their ratio to a single-task network."""

import collections
import math

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath
from jaxtyping import PyTree

from mtan_jax.commands.request import Request
from mtan_jax.experiment import Experiment
from mtan_jax.models import Backbone, build_backbone, build_model
from mtan_jax.models.stage import abstract_stages
from mtan_jax.training.open_run import open_run
from mtan_jax.types import Params, Path, Shape, Variables
from mtan_jax.weighting.sharing import part_of


def count(tree: PyTree) -> int:
    """Counts the parameters in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def count_parts(params: Params, tasks: tuple[str, ...]) -> dict[str, int]:
    """Counts the parameters of each part of the network (`mtan_jax.weighting.sharing`), as in `count_stored`."""
    counts: collections.Counter[str] = collections.Counter()
    for path, leaf in jax.tree.leaves_with_path(params):
        counts[part_of(_keys(path), tasks)] += _stored(_keys(path), leaf)
    return dict(counts)


def count_stored(variables: Variables) -> tuple[int, int]:
    """Counts the parameters that must be stored for a network, in total and in its heads.

    Running statistics do not count, whether frozen or not. Piggyback's scores count as one bit per weight and task.
    """
    heads = sum(count(tree) for name, tree in variables["params"].items() if name.startswith("head_"))
    total = sum(_stored(_keys(path), leaf) for path, leaf in jax.tree.leaves_with_path(variables["params"]))
    for path, leaf in jax.tree.leaves_with_path(variables.get("frozen", {})):
        total += 0 if _keys(path)[-1] in ("mean", "var") else leaf.size
    return total, heads


def _stored(path: Path, leaf: Shape) -> int:
    """Parameters to store for an array. Piggyback stores one mask per task, in words of 32 bits."""
    return leaf.shape[0] * math.ceil(math.prod(leaf.shape[1:]) / 32) if path[-1] == "own_scores" else leaf.size


def _keys(path: KeyPath) -> Path:
    return tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))


def stage_table(backbone: Backbone, image_size: tuple[int, int], *, grouped: bool = False) -> str:
    """Formats a table of a backbone's stages for one image: the fields of `mtan_jax.models.Stage`.

    `look` is the input of a mask and `gate` the features that it gates, as height x width x channels; `hidden` is the
    number of channels inside the mask. If `shared` is "yes", attended features go through a module that the tasks
    share. `resample` halves their resolution after the stage ("down") or doubles it before the stage ("up").

    Args:
        backbone: the backbone.
        image_size: height and width.
        grouped: see `abstract_stages`.
    """
    rows = [("stage", "look", "gate", "hidden", "shared", "resample")]
    for name, stage in abstract_stages(backbone, image_size, grouped=grouped).items():
        look, gate = ("x".join(map(str, features.shape[-3:])) for features in (stage.look, stage.gate))
        rows.append((name, look, gate, str(stage.hidden), "yes" if stage.shared else "-", stage.resample or "-"))
    return "\n".join("{:<16}{:>15}{:>15}{:>8}{:>8}{:>10}".format(*row) for row in rows)


def summary(experiment: Experiment) -> str:
    """Formats tables of the backbone's stages and of the parameters of the network's modules and parts.

    The ratio is the paper's column "#P.": the parameters relative to those of a single-task network, the same backbone
    with the head of the first task. For sets of labelled images it is relative to one backbone without a head, and is
    given with and without heads, since both are published. The log-variances of the uncertainty weighting belong to the
    optimizer and do not count. For Piggyback's masks see `count_stored`.
    """
    variables = experiment.abstract_variables
    params = variables["params"]
    rows = []
    for name, module in params.items():
        rows.append((name, count(module)))
        if isinstance(module, dict):
            rows += [(f"  {inner}", count(part)) for inner, part in module.items()]
    total, heads = count_stored(variables)
    parts = count_parts(params, experiment.task_names)
    if total > sum(parts.values()):
        parts["frozen"] = total - sum(parts.values())
    grouped = experiment.data.groups is not None
    single = _single_task(experiment)
    baseline = "backbone alone" if grouped else f"single task ({experiment.tasks[0].name})"
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
        f"{baseline:<28}{single:>14,}",
        f"{'ratio':<28}{total / single:>14.4f}",
        *([f"{'ratio without heads':<28}{(total - heads) / single:>14.4f}"] if grouped else []),
    ]
    return "\n".join(lines)


def _single_task(experiment: Experiment) -> int:
    """Parameters of a single-task network of the first task; without its head for sets of labelled images."""
    config = experiment.config.model.copy_and_resolve_references()
    config.arch = "single"
    model = build_model(config, experiment.tasks[:1])
    image = jnp.zeros((1, *experiment.data.info.image_size, 3))
    params = jax.eval_shape(lambda key: model.init(key, image, train=False), jax.random.key(0))["params"]
    return count(params["backbone"] if experiment.data.groups is not None else params)


def run(request: Request) -> None:
    """`--mode=summary`: prints the summary of the network."""
    print(summary(open_run(request.config, request.workdir)))
