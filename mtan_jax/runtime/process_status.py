"""The status that each process of a run publishes, and the messages about dead, hung and waiting processes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mtan_jax.runtime import interrupts

DEAD_AFTER = 20.0  # seconds without a new count after which a process counts as dead


class Status(NamedTuple):
    """The published status of a process.

    Attributes:
        beat: number of its publications so far.
        host: its host's name.
        text: its activity.
        kind: its activity's kind.
        seconds: how long the activity has lasted.
        limit: of the activity in seconds; None if it may take any time.
        end: why the run ends, if this process ends it; else None.
        exit_code: of the other processes in that case.
    """

    beat: int
    host: str
    text: str
    kind: str
    seconds: float
    limit: float | None
    end: str | None = None
    exit_code: int = 0


UNKNOWN = Status(0, "(unknown)", "starting", "work", 0.0, None)


def dead_message(index: int, status: Status) -> str:
    """The message about a process that no longer publishes."""
    return (
        f"process {index} on host {status.host} has not responded for {DEAD_AFTER:.0f} s: it was killed, for example "
        f"for lack of memory, or is frozen or disconnected. It last reported: {status.text}. {_all_end()}"
    )


def gone_message(status: Status) -> str:
    """The message about process 0 if its end was noticed by its closed connection."""
    return (
        f"process 0 on host {status.host} has ended or is disconnected; see its output. It last reported: "
        f"{status.text}. {_all_end()}"
    )


def hung_message(statuses: Mapping[int, Status]) -> str | None:
    """The message about activities beyond their limit; None if there are none.

    Processes that wait for others count only if all processes do.
    """
    busy = {i: status for i, status in statuses.items() if status.kind != "together"}
    late = {i: s for i, s in (busy or statuses).items() if s.limit is not None and s.seconds > s.limit}
    if not late or (not busy and len(late) < len(statuses)):
        return None
    return f"no progress: {describe(late)}. {_all_end()}"


def wait_message(statuses: Mapping[int, Status]) -> str:
    """The message about a long wait: names the processes that are waited for, or all if they wait for each other."""
    seconds = waiting_seconds(statuses)
    busy = {i: status for i, status in statuses.items() if status.kind != "together"}
    if not busy:
        return f"no progress for {seconds:.0f} s in what all processes do together: {describe(statuses)}"
    return f"waiting for {seconds:.0f} s: {describe(busy)}"


def waiting_seconds(statuses: Mapping[int, Status]) -> float:
    """How long the process that waits longest has waited."""
    return max((status.seconds for status in statuses.values() if status.kind != "work"), default=0.0)


def describe(statuses: Mapping[int, Status]) -> str:
    """Lists processes by what they do."""
    groups: dict[str, list[int]] = {}
    for i, status in statuses.items():
        groups.setdefault(status.text, []).append(i)
    return "; ".join(
        f"{_names(indices, statuses)} {'are' if len(indices) > 1 else 'is'} {text} (for "
        f"{max(statuses[i].seconds for i in indices):.0f} s)"
        for text, indices in groups.items()
    )


def _names(indices: Sequence[int], statuses: Mapping[int, Status]) -> str:
    if len(indices) == 1:
        return f"process {indices[0]} on host {statuses[indices[0]].host}"
    listed = ", ".join(map(str, indices[:8]))
    return f"processes {listed}" + (f" and {len(indices) - 8} more" if len(indices) > 8 else "")


def _all_end() -> str:
    return f"All processes of the run end; {interrupts.CONTINUES}"
