"""Runs a command and measures time, CPU time and memory of its process and all its descendants.

Memory is sampled from /proc: five times per second the sum of the resident sizes (RSS, which counts shared pages once
per process), once per second the sum of the proportional sizes (PSS, which counts them once), and the high-water mark
of the largest process. (`ru_maxrss` does not work: a child inherits it from its parent.)
"""

import dataclasses
import os
import pathlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil

INTERVAL = 0.2  # seconds
PSS_EVERY = 5  # samples; reading it takes milliseconds
GRACE = 180  # seconds from an interrupt to SIGKILL; a compilation cannot be interrupted


@dataclasses.dataclass(frozen=True)
class Sample:
    """The state of the processes at one moment; sizes in bytes."""

    seconds: float
    cpu_seconds: float
    rss: int
    pss: int | None
    largest: int


def measure(
    command: Sequence[str],
    *,
    folder: pathlib.Path,
    log: pathlib.Path,
    environment: Mapping[str, str],
    is_prepared: Callable[[], bool] | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Runs a command to its end, or interrupts it as by Ctrl-C once `stop()` is true.

    Args:
        command: program and arguments.
        folder: working directory of the command.
        log: file for all output; each line begins with the seconds since the start.
        environment: variables added to those of this process.
        is_prepared: if given, "prepare" in the result is the usage until it becomes true.
        stop: when to interrupt; None: never.

    Returns:
        exit, interrupted, seconds, cpu_seconds, peak_rss_mib, peak_pss_mib, largest_mib, said (its messages about
        preparations, and its last lines), and prepare.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=_copy, args=(process, log, start, lines), daemon=True)
    reader.start()
    samples: list[Sample] = []
    prepared: float | None = None
    interrupted: float | None = None
    try:
        while process.returncode is None:
            samples.append(_sample(process.pid, time.perf_counter() - start, with_pss=len(samples) % PSS_EVERY == 0))
            if prepared is None and is_prepared is not None and is_prepared():
                prepared = samples[-1].seconds
            if interrupted is None and stop is not None and stop():
                interrupted = samples[-1].seconds
                os.killpg(process.pid, signal.SIGINT)
            elif interrupted is not None and samples[-1].seconds - interrupted > GRACE:
                process.kill()
            time.sleep(INTERVAL)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # this program was stopped
    reader.join(timeout=10)  # a process that outlives its parent keeps the pipe open
    result = {"exit": process.returncode, "interrupted": interrupted is not None} | usage_of(samples)
    result |= {"seconds": round(time.perf_counter() - start, 1)}
    result |= {"cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1)}
    if prepared is not None:
        result["prepare"] = usage_of([sample for sample in samples if sample.seconds <= prepared])
    told = [line for line in lines if line.startswith("prepared ")]  # includes the time of the preparation
    return result | {"said": list(dict.fromkeys([*told, *lines[-3:]]))}


def usage_of(samples: Sequence[Sample]) -> dict[str, Any]:
    """Summarizes time and memory over samples."""
    mib = 2**20
    return {
        "seconds": round(samples[-1].seconds, 1),
        "cpu_seconds": round(max(s.cpu_seconds for s in samples), 1),
        "peak_rss_mib": round(max(s.rss for s in samples) / mib),
        "peak_pss_mib": round(max(s.pss or 0 for s in samples) / mib),
        "largest_mib": round(max(s.largest for s in samples) / mib),
    }


def _sample(pid: int, now: float, *, with_pss: bool) -> Sample:
    cpu, rss, pss, largest = 0.0, 0, 0, 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        processes = []
    for process in processes:
        try:
            with process.oneshot():
                times, resident = process.cpu_times(), process.memory_info().rss
            pss += process.memory_full_info().pss if with_pss else 0
            largest = max(largest, _high_water(process.pid))
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):  # it has ended
            continue
        cpu += times.user + times.system + times.children_user + times.children_system
        rss += resident
    return Sample(now, cpu, rss, pss if with_pss else None, largest)


def _high_water(pid: int) -> int:
    """Returns the largest resident size of a process so far, in bytes."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _copy(process: subprocess.Popen, log: pathlib.Path, start: float, lines: list[str]) -> None:
    """Copies output to the log, line by line."""
    if process.stdout is None:
        return
    with log.open("w") as file:
        for line in process.stdout:
            for text in filter(None, line.decode(errors="replace").rstrip().split("\r")):
                file.write(f"{time.perf_counter() - start:9.2f}  {text}\n")
                file.flush()
                lines.append(text)
