"""Which part of a network a variable belongs to, by its path."""

SHARED, OWN, ATTENTION, HEADS = "shared", "backbones of tasks", "attention", "heads"


def part_of(path: tuple[str, ...], tasks: tuple[str, ...]) -> str:
    """The part of the network that the variable at `path` belongs to.

    Args:
        path: keys from the top of a collection, such as ("attention", "encoder_0", "depth", "hidden_kernel").
        tasks: names of the tasks.

    Returns:
        "shared": what works for all tasks: a common backbone, the convolutions that attended features of all tasks
        pass, cross-stitch weights. "backbones of tasks": a backbone for one task. "attention": masks. "heads": heads.
    """
    alone = path[0] in tasks and path[1] in ("backbone", "attention", f"head_{path[0]}")  # one network a task
    first, *rest = path[1:] if alone else path
    if first.startswith("head_"):
        return HEADS
    if first == "attention":
        return ATTENTION if not rest[0].endswith("_shared") else OWN if alone else SHARED
    return OWN if alone or (first != "backbone" and first.startswith("backbone_")) else SHARED
