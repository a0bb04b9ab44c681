"""What a batch holds besides images, targets and weights."""

from typing import Any

Batch = dict[str, Any]

# The key under which a batch holds the second one of the same step, for the methods that learn from one.
SECOND = "second"
# The key under which the step itself adds what is added to the features that tasks share.
ZEROS = "zeros"
# The key under which a batch says which task a row belongs to, where each image belongs to one.
TASK = "task"


def tasks_of_rows(batch: Batch) -> dict[str, Any]:
    """What a network is told besides the images."""
    return {"tasks": batch[TASK]} if TASK in batch else {}
