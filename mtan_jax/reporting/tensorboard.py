"""Writes TensorBoard event files synchronously.

tensorboardX's own writer passes events to a thread through a `multiprocessing.Queue`, whose semaphores need space in
`/dev/shm`. Containers may have none left.
"""

import math
import pathlib
import time
from collections.abc import Mapping

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar


class TensorBoard:
    """Sink that writes scalars named "split/name" to an event file in a working directory.

    Each start of the run, including a resumption, creates a new file. Viewers drop the events of older files after
    `first_step`. Non-finite numbers are left out.

    Args:
        workdir: an existing directory.
        first_step: steps completed before this run starts or resumes.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int):
        # Without the suffix, two files created within one second would have the same name.
        self._writer = EventsWriter(str(workdir / "events"), f".from{first_step}")
        self._write_event(Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Writes one event per finite metric, except "epoch", and flushes them."""
        for name, value in metrics.items():
            if name != "epoch" and math.isfinite(value):
                self._write_event(Event(step=step, summary=scalar(f"{split}/{name}", value)))
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _write_event(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
