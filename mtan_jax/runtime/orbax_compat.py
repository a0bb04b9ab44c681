"""Writes and reads one checkpoint with orbax; the only file that knows orbax.

orbax's own manager of many checkpoints is not used: it takes an old checkpoint that cannot be deleted for a failed
save, deletes in place (so a reader may meet half a checkpoint), and waits 300 s in threads of its own after a failure.
"""

import functools
import glob
import logging
import os
import pathlib
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

ITEM = "state"
BUCKETS = ("/gs/", "/s3/", "/az/", "/hf/")  # what etils takes for gs:// and so on
LONGEST_PATH = 3800  # bytes of a checkpoint's path; the system's limit of 4096 is for the files in it


class _LiteralPath(epath.gpath.PosixGPath):
    """A path whose `glob` takes only its argument as a pattern, as pathlib does.

    etils takes the characters `[`, `*` and `?` of the folder itself as a pattern too. orbax finds what each process
    has written with it: below `run[1]` it would find nothing, below `run*` what other runs have written.
    """

    def glob(self, pattern: str) -> Iterator["_LiteralPath"]:
        for found in glob.glob(os.path.join(glob.escape(os.fspath(self)), pattern)):
            yield type(self)(found)


def unfit(folder: pathlib.Path) -> str | None:
    """The reason why orbax cannot write below a folder; None if it can."""
    path = os.fspath(folder)
    if "\\" in path:
        return "has a backslash, which the checkpoint library takes for a slash"
    if "gs:/" in path or path.startswith(BUCKETS):
        return "looks like a bucket (the first folder is gs, s3, az or hf, or one ends with gs:)"
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "is not UTF-8, which the checkpoint library needs"
    return f"is {size} bytes long; at most {LONGEST_PATH} are possible" if size > LONGEST_PATH else None


def start_writing(path: pathlib.Path, arrays: Any, custom_metadata: dict[str, Any]) -> Callable[[], None]:
    """Begins to write arrays into a new folder; every process calls it, at the same point.

    Args:
        path: absolute. A folder that is there is replaced. It appears when all is written; until then its name has
            `.orbax-checkpoint-tmp` at the end.
        arrays: nested dictionaries of NumPy arrays, which nobody changes until they are written.
        custom_metadata: JSON.

    Returns:
        A function that waits until all is written; it raises what went wrong.
    """
    context = ocp.Context()
    context.file.path_class = _LiteralPath
    context.memory.deepcopy_host_arrays = False
    # Otherwise threads wait 300 s for folders whose creation has failed, and the program cannot end before them.
    context.asynchronous.create_directories_asynchronously = False
    with context:
        writing = ocp.save_checkpointables_async(path, {ITEM: arrays}, overwrite=True, custom_metadata=custom_metadata)
    return writing.result


def read(path: pathlib.Path, template: Any = None) -> tuple[Any, dict[str, Any]]:
    """Reads what `start_writing` wrote; each process for itself.

    Args:
        path: absolute.
        template: NumPy arrays of the same structure, of which only shapes and types are looked at; None: whatever is
            there is read.

    Returns:
        The arrays, as nested dictionaries of NumPy arrays, and the custom metadata.
    """
    context = ocp.Context()
    context.file.path_class = _LiteralPath
    context.multiprocessing.primary_host = jax.process_index()
    context.multiprocessing.active_processes = {jax.process_index()}
    with context:
        arrays = ocp.load(path, template, checkpointable_name=ITEM)
        custom_metadata = ocp.metadata(path, checkpointable_name=ITEM).custom_metadata
    return jax.tree.map(np.asarray, arrays), dict(custom_metadata or {})


def checksum(arrays: Any) -> int:
    """CRC-32 of all arrays, in the order of their names."""
    value = 0
    for leaf in jax.tree.leaves(arrays):
        value = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, value)
    return value


@functools.cache
def hush() -> None:
    """Leaves it to us to say what goes wrong.

    orbax logs each of its steps, and each error several times before it raises it; what it has left behind in other
    threads by then complains of its own.
    """
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in pathlib.PurePath(record.pathname).parts)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    previous = sys.unraisablehook

    def unraisablehook(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = unraisablehook


def reason(error: BaseException) -> str:
    """The reason of an error; where orbax nests reasons, the innermost stands last, before details in brackets."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    line = f"{type(cause).__name__}: {cause}".strip().splitlines()[0]
    line = re.split(r" \[(?:tensorstore_spec|os_error_code)", line)[0]
    return line if len(line) <= 200 else f"... {line[-200:]}"
