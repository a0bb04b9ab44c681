"""Trials of the campaign with a full disk, which is a small tmpfs. Mounting one needs root."""

import contextlib
import dataclasses
import os
import re
import shutil
import subprocess

from helpers import campaign_trials
from helpers.campaign_run import DATA, WORK, Started

ENOUGH = 64 << 20  # bytes
PAGE = 4096  # bytes, the unit of a tmpfs
PHASES = ("prepare", "save", "log", "evaluate", "train", "report", "compile")
NAMED = re.compile(rf"\b({WORK}|{DATA})\b")
SPACE = re.compile(r"space|room|full", re.IGNORECASE)


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of `size` bytes at a folder; yields a function that changes its size."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield lambda size: subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"remount,size={size}", "tmpfs", folder], check=True
        )
    finally:
        subprocess.run(["umount", folder], check=True)


def used(folder):
    """Bytes in use on a file system."""
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def full_disk(campaign, number):
    """Runs on a disk that is too small, or that fills up at a random moment; then with enough space."""
    rng, folder = campaign.rng("disk", number), campaign.folder(f"disk.{number}")
    reference = campaign.reference()
    fills, prepared, cached = number % 2 == 0, number % 4 > 1, number % 8 == 7
    disk, need = folder / "disk", _need(campaign, reference)
    cache = disk / "cache" if cached else campaign.cache
    record = {"fills": fills, "prepared": prepared, "cache_on_disk": cached}
    with small_disk(disk, ENOUGH) as resize:
        if prepared:
            shutil.copytree(reference / DATA, disk / DATA)
        before = used(disk)
        if fills:
            moment = campaign.draw(rng, PHASES[number // 2 % len(PHASES)], 1, by_operation=False)
            record["moment"] = dataclasses.asdict(moment)
        else:
            record["bytes"] = rng.randrange(0, need - (before if prepared else 0), PAGE)
            resize(before + max(record["bytes"], PAGE))
        started = Started(disk, cache, output=folder)
        if fills and started.wait_until(moment):
            resize(used(disk) + PAGE * rng.choice((0, 0, 1, 4)))
        seconds = started.wait(campaign_trials.FINISH)
        errors, [code] = started.read_errors(), started.returncodes()
        record |= {
            "hit": started.traces[0].hit(),
            "codes": [code],
            "seconds": seconds,
            "active": started.traces[0].active(),
        }
        record["message"] = errors.strip().splitlines()[-1][-600:]
        faults = []
        if code:
            faults += message_faults(code, errors)
            if not SPACE.search(record["message"]) or not NAMED.search(record["message"]):
                faults.append("the message does not say which file or folder needs space")
        resize(ENOUGH)
        faults += campaign_trials.finish(campaign, disk, cache, output=folder)
    return record | {"faults": faults}


def message_faults(code, errors):
    """What is wrong with the way in which a run has ended: it must show one error and exit with 1."""
    count = sum(line.startswith("error: ") for line in errors.splitlines())
    faults = [f"exit code {code}, expected 1"] if code != 1 else []
    faults += [f"{count} errors, expected 1: {errors}"] if count != 1 else []
    return faults + ([f"shows a traceback: {errors}"] if "Traceback" in errors else [])


def _need(campaign, reference):
    """Bytes that a run writes in all, at most."""
    paths = [path for part in (WORK, DATA) for path in (reference / part).rglob("*")]
    return sum(-(-path.stat().st_size // PAGE) * PAGE + PAGE for path in paths)
