"""Tasks and their losses, metrics and visualizations."""

from mtan_jax.tasks.task import (
    TASKS,
    Task,
    build_tasks,
    classification,
    depth,
    log_softmax,
    normal,
    semantic,
    unit_vector,
)

__all__ = [
    "TASKS",
    "Task",
    "build_tasks",
    "classification",
    "depth",
    "log_softmax",
    "normal",
    "semantic",
    "unit_vector",
]
