"""Which variables of a network the tasks share, and which belong to one task, read from a variable's path.

The path holds module names, then the variable's name, without the collection. The networks in `mtan_jax.models` name
their modules as follows:

    backbone/...                       shared by all tasks
    backbone_TASK/..., TASK/...        a task's own backbone, or its own whole network
    attention_TASK/STAGE/...           a task's attention mask
    shared_STAGE/...                   the convolution that follows a stage's masks, shared by all tasks
    head_TASK/...                      a task's prediction head
    .../own_NAME                       a variable with a leading axis over all tasks, one slice per task
"""

from mtan_jax.types import Path

TASK_AXIS_PREFIX = "own_"
SHARED, PER_TASK, ATTENTION, HEADS = "shared", "per-task backbones", "attention", "heads"


def part_of(path: Path, tasks: tuple[str, ...]) -> str:
    """The part of the network that a variable belongs to.

    Args:
        path: keys below the collection, such as ("attention_depth", "encoder_0", "hidden", "conv", "kernel").
        tasks: task names.

    Returns:
        One of

        - "shared": a common backbone, the convolutions after the attention masks, and cross-stitch weights;
        - "per-task backbones": one backbone per task, or per-task variables within a common backbone, such as adapters;
        - "attention": the attention masks;
        - "heads": the prediction heads.
    """
    if has_task_axis(path):
        return PER_TASK
    is_separate = path[0] in tasks and (  # one network per task
        path[1] in ("backbone", f"attention_{path[0]}", f"head_{path[0]}") or path[1].startswith("shared_")
    )
    first = path[1] if is_separate else path[0]
    if first.startswith("head_"):
        return HEADS
    if first.startswith("attention_"):
        return ATTENTION
    return PER_TASK if is_separate or (first != "backbone" and first.startswith("backbone_")) else SHARED


def has_task_axis(path: Path) -> bool:
    """Whether a variable has a leading axis over all tasks (`mtan_jax.models.layers.task_layers`)."""
    return path[-1].startswith(TASK_AXIS_PREFIX)


def task_of(path: Path, tasks: tuple[str, ...]) -> str | None:
    """The task that a variable belongs to through its network, head or mask; None if it belongs to no single task."""
    return next((task for task in tasks if path[0] in (task, f"attention_{task}", f"head_{task}")), None)
