"""Which part of a network a variable belongs to, by its path."""

# How names of arrays begin that have a leading axis over all tasks.
OWN_PREFIX = "own_"
SHARED, OWN, ATTENTION, HEADS = "shared", "backbones of tasks", "attention", "heads"


def part_of(path: tuple[str, ...], tasks: tuple[str, ...]) -> str:
    """The part of the network that the variable at `path` belongs to.

    Args:
        path: keys from the top of a collection, such as ("attention", "encoder_0", "depth", "hidden_kernel").
        tasks: names of the tasks.

    Returns:
        "shared": what works for all tasks: a common backbone, the convolutions that attended features of all tasks
        pass, cross-stitch weights. "backbones of tasks": a backbone for one task, or what a task has of its own within
        a common one, such as adapters. "attention": masks. "heads": heads.
    """
    if is_own(path):
        return OWN
    alone = path[0] in tasks and path[1] in ("backbone", "attention", f"head_{path[0]}")  # one network a task
    first, *rest = path[1:] if alone else path
    if first.startswith("head_"):
        return HEADS
    if first == "attention":
        return ATTENTION if not rest[0].endswith("_shared") else OWN if alone else SHARED
    return OWN if alone or (first != "backbone" and first.startswith("backbone_")) else SHARED


def is_own(path: tuple[str, ...]) -> bool:
    """Whether the variable at `path` has a leading axis over all tasks (`mtan_jax.models.layers.task_layers`)."""
    return path[-1].startswith(OWN_PREFIX)


def task_of(path: tuple[str, ...], tasks: tuple[str, ...]) -> str | None:
    """The one task that a variable works for: its network, its head, its masks; None where it is none or several."""
    if path[0] == "attention":
        return path[2] if len(path) > 2 and path[2] in tasks else None
    return next((task for task in tasks if path[0] in (task, f"head_{task}")), None)
