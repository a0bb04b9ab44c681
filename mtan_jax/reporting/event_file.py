"""Writes TensorBoard event files, each event at once.

tensorboardX's own writer hands events to a thread through a `multiprocessing.Queue`. That needs semaphores in
`/dev/shm`, for which a container may have no room.
"""

import pathlib
import time

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar


class EventFile:
    """An event file of a run. Viewers drop what older files of the run have after its first step.

    Args:
        workdir: of the run.
        first_step: steps done before.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int):
        # Without the suffix two files of one second would have one name.
        self._writer = EventsWriter(str(workdir / "events"), f".from{first_step}")
        self._write(Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def add_scalars(self, scalars: dict[str, float], step: int) -> None:
        """Writes numbers by name."""
        for name, value in scalars.items():
            self._write(Event(step=step, summary=scalar(name, value)))
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
