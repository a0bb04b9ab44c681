"""Reads and writes results.json: one record per line, with its conditions."""

import datetime as dt
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import psutil
from inputs import ROOT


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns all records; an empty list without the file."""
    path = folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else []


def is_known(name: str, folder: pathlib.Path) -> bool:
    """Returns whether there is a record of a successful run."""
    return any(record["name"] == name and record["success"] for record in read(folder))


def add(record: dict[str, Any], folder: pathlib.Path) -> None:
    """Adds a record with its conditions; replaces a record of the same name."""
    complete = record | conditions()
    records = [other for other in read(folder) if other["name"] != record["name"]] + [complete]
    folder.mkdir(parents=True, exist_ok=True)
    text = "[\n" + ",\n".join(f" {json.dumps(entry)}" for entry in records) + "\n]\n"
    part = folder / "results.json.part"
    part.write_text(text)
    part.rename(folder / "results.json")
    sys.stdout.write(json.dumps(complete) + "\n")
    sys.stdout.flush()


def conditions() -> dict[str, Any]:
    """Returns commit, versions, hardware and date."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else ""),
        "jax": importlib.metadata.version("jax"),
        "python": platform.python_version(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _cpu() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
