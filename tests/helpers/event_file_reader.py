"""Reading TensorBoard's event files back."""

import struct

from tensorboardX.proto import event_pb2


def read_events(workdir):
    """All events of all files, by the published record format: length, checksum, content, checksum."""
    events = []
    for path in sorted(workdir.glob("events.out.tfevents*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            events.append(event_pb2.Event.FromString(content[12 : 12 + length]))
            content = content[12 + length + 4 :]
    return events


def read_scalars(workdir):
    """{(tag, step): value}."""
    return {
        (value.tag, event.step): value.simple_value for event in read_events(workdir) for value in event.summary.value
    }
