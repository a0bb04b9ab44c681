"""Compares everything that a run has left behind with an uninterrupted run's."""

import functools
import json
import math
import re

import numpy as np
from helpers import whole_run
from helpers.campaign_run import DATA, WORK

from mtan_jax.config import FREE_FIELDS
from mtan_jax.reporting import metrics_file
from mtan_jax.runtime import orbax_compat

# Files whose names or contents differ from start to start.
OWN = re.compile(r"events\.out\.tfevents.*|.*\.lock(\.owner)?|\.shared")


def differences(found, expected):
    """Lists the differences between two folders of trials: parameters, optimizer state, metrics, figures and data."""
    return [*_files(found, expected), *_metrics(found, expected), *_checkpoints(found, expected)]


def snapshot(folder):
    """The content of every file that belongs to a run, by name."""
    paths = [path for part in (WORK, DATA) for path in sorted((folder / part).rglob("*"))]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if path.is_file() and not OWN.fullmatch(path.name)
    }


def _files(found, expected):
    """Files that are missing, left over or different, except arrays, metrics and what OWN names."""
    here, there = _contents(found), _contents(expected)
    for name in sorted(here.keys() | there.keys()):
        if name not in here:
            yield f"{name} is missing"
        elif name not in there:
            yield f"{name} is left over"
        elif here[name] != there[name]:
            yield f"{name} differs"


def _contents(folder):
    contents = {}
    for part in (WORK, DATA):
        for path in sorted((folder / part).rglob("*")):
            name = str(path.relative_to(folder))
            if OWN.fullmatch(path.name) or not path.is_file():
                continue
            if name == f"{WORK}/config.json":
                fields = json.loads(path.read_text())
                contents[name] = {field: value for field, value in fields.items() if field not in FREE_FIELDS}
            elif name.startswith(f"{WORK}/checkpoints/"):  # the files of arrays have random names
                step, _, rest = name.removeprefix(f"{WORK}/checkpoints/").partition("/")
                contents[f"{WORK}/checkpoints/{step}"] = None
                if rest == "metrics/metrics":
                    contents[name] = path.read_bytes()
            elif path.name == metrics_file.CHECKSUMS_FILE:  # the lines hold timing
                contents[name] = [line.split()[0] for line in path.read_text(errors="replace").splitlines()]
            elif name != f"{WORK}/{metrics_file.METRICS_FILE}":
                contents[name] = path.read_bytes()
    return contents


def _metrics(found, expected):
    here, there = (whole_run.read_metrics(folder / WORK) for folder in (found, expected))
    keys = [[(line["step"], line["split"]) for line in lines] for lines in (here, there)]
    if keys[0] != keys[1]:
        yield f"metrics.jsonl has the lines {keys[0]}, not {keys[1]}"
        return
    for line, other in zip(here, there, strict=True):
        for name in line.keys() | other.keys():
            if not _same(line.get(name), other.get(name)):
                yield (
                    f"metrics.jsonl, step {line['step']}, {line['split']}: {name} is {line.get(name)!r}, "
                    f"not {other.get(name)!r}"
                )


def _same(a, b):
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def _checkpoints(found, expected):
    for step in sorted({*whole_run.checkpoint_steps(found / WORK)} & {*whole_run.checkpoint_steps(expected / WORK)}):
        try:
            here = read(found / WORK / "checkpoints" / str(step))
        except Exception as error:  # orbax raises many types
            yield f"checkpoint {step} cannot be read: {error}"
            continue
        there = _reference(expected / WORK / "checkpoints" / str(step))
        if here.keys() != there.keys():
            yield f"checkpoint {step} holds other arrays: {sorted(here.keys() ^ there.keys())}"
        for name in here.keys() & there.keys():
            a, b = here[name], there[name]
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                yield f"checkpoint {step}: {name} is {a.dtype}{a.shape}, not {b.dtype}{b.shape}"
            elif a.tobytes() != b.tobytes():
                yield f"checkpoint {step}: {np.sum(a != b)} of {a.size} numbers of {name} differ"


def read(path):
    """The arrays of a checkpoint by name, without the checks of `mtan_jax.runtime.checkpoint`."""
    arrays, _ = orbax_compat.read(path.absolute())
    flat = {}

    def add(name, value):
        if isinstance(value, dict):
            for key, item in value.items():
                add(f"{name}/{key}", item)
        else:
            flat[name] = value

    add("", arrays)
    return flat


_reference = functools.cache(read)
