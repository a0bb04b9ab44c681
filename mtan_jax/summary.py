"""The network in numbers: parameters by part, and their ratio to one single-task network."""

from typing import Any

import jax

from mtan_jax.experiment import Experiment


def count(tree: Any) -> int:
    """Number of parameters in a tree of arrays or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def summary(experiment: Experiment) -> str:
    """A table of the network's modules, as text.

    The ratio is that of the paper's column "#P.": to a network of the same backbone and the head of the first task
    alone. Log-variances of the uncertainty weighting belong to the optimiser and are not counted.
    """
    params = experiment.abstract_variables()["params"]
    rows = []
    for part, modules in params.items():
        rows.append((part, count(modules)))
        rows += [(f"  {name}", count(module)) for name, module in modules.items()]
    total = count(params)
    single = count(params["backbone"]) + count(params[f"head_{experiment.tasks[0].name}"])
    config = experiment.config.model
    height, width = experiment.data_info.image_size
    lines = [
        f"{config.arch} on {config.backbone}, width {config.width:g}, {config.dtype}, image {height}x{width}",
        "tasks and their channels: " + ", ".join(f"{task.name} {task.channels}" for task in experiment.tasks),
        "",
        f"{'module':<28}{'parameters':>14}",
        *(f"{name:<28}{number:>14,}" for name, number in rows),
        f"{'total':<28}{total:>14,}",
        f"{f'single task ({experiment.tasks[0].name})':<28}{single:>14,}",
        f"{'ratio':<28}{total / single:>14.4f}",
    ]
    return "\n".join(lines)
