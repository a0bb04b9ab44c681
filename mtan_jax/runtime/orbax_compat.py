"""Writes and reads a checkpoint with orbax. No other file uses orbax.

orbax's CheckpointManager is not used: it reports an old checkpoint that cannot be deleted as a failed save, it deletes
in place, so that readers may see half a checkpoint, and its threads wait 300 s after a failure.
"""

import contextlib
import functools
import glob
import logging
import os
import pathlib
import re
import sys
import zlib
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp
from orbax.checkpoint.experimental.v1._src.saving import execution

from mtan_jax.types import Options

ITEM = "state"
BUCKETS = ("/gs/", "/s3/", "/az/", "/hf/")  # prefixes that etils interprets as gs:// and so on
LONGEST_PATH = 3800  # bytes of a checkpoint's path; the files in it must not exceed the system's limit of 4096


class _LiteralPath(epath.gpath.PosixGPath):
    """A path whose `glob` interprets only its argument as a pattern, like pathlib.

    etils also interprets `[`, `*` and `?` in the path of the folder. orbax uses `glob` to find the files of each
    process: in `run[1]` it would find none, and in `run*` those of other runs.
    """

    def glob(self, pattern: str) -> Iterator["_LiteralPath"]:
        for found in glob.glob(os.path.join(glob.escape(os.fspath(self)), pattern)):
            yield type(self)(found)


def unfit(folder: pathlib.Path) -> str | None:
    """Returns the reason why orbax cannot write to a folder with this path; None if it can."""
    path = os.fspath(folder)
    if "\\" in path:
        return "contains a backslash, which the checkpoint library interprets as a slash"
    if "gs:/" in path or path.startswith(BUCKETS):
        return "looks like a bucket: it starts with /gs/, /s3/, /az/ or /hf/, or contains gs:/"
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "is not UTF-8, which the checkpoint library needs"
    return f"is {size} bytes long; expected at most {LONGEST_PATH}" if size > LONGEST_PATH else None


def write(path: pathlib.Path, arrays: PyTree[np.ndarray], custom_metadata: dict[str, int]) -> None:
    """Writes arrays into a new folder. Called by one process, which does not wait for others.

    Args:
        path: absolute path. An existing folder is replaced. While the folder is written, its name ends with
            `.orbax-checkpoint-tmp`.
        arrays: nested dictionaries of NumPy arrays.
        custom_metadata: numbers by name.
    """
    context = _context()
    context.memory.deepcopy_host_arrays = False
    # Otherwise threads wait 300 s for folders whose creation failed, and the program cannot exit before that.
    context.asynchronous.create_directories_asynchronously = False
    with context, _without_collectives():
        ocp.save_checkpointables_async(
            path, {ITEM: arrays}, overwrite=True, custom_metadata=dict(custom_metadata)
        ).result()


def read(path: pathlib.Path, template: PyTree[np.ndarray] = None) -> tuple[PyTree[np.ndarray], Options]:
    """Reads a folder written by `write`. Each process reads for itself.

    Args:
        path: absolute path.
        template: NumPy arrays with the structure, shapes and dtypes to read; None accepts any.

    Returns:
        The arrays, as nested dictionaries of NumPy arrays, and the custom metadata.
    """
    with _context():
        arrays = ocp.load(path, template, checkpointable_name=ITEM)
        custom_metadata = ocp.metadata(path, checkpointable_name=ITEM).custom_metadata
    return jax.tree.map(np.asarray, arrays), dict(custom_metadata or {})


@contextlib.contextmanager
def _without_collectives() -> Iterator[None]:
    """Leaves out orbax's check that all processes save to the same path, which would wait for them."""
    check = execution._check_directory_consistency
    execution._check_directory_consistency = lambda directory: None
    try:
        yield
    finally:
        execution._check_directory_consistency = check


def _context() -> ocp.Context:
    """Settings for operations of one process."""
    context = ocp.Context()
    context.file.path_class = _LiteralPath
    context.multiprocessing.primary_host = jax.process_index()
    context.multiprocessing.active_processes = {jax.process_index()}
    return context


def checksum(arrays: PyTree[np.ndarray]) -> int:
    """CRC-32 of all arrays in the order of their names."""
    value = 0
    for leaf in jax.tree.leaves(arrays):
        value = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, value)
    return value


@functools.cache
def hush() -> None:
    """Silences orbax's logging, because its errors are raised as exceptions.

    orbax logs each operation, and each error several times before it raises it. Its remaining threads then print errors
    of their own.
    """
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in pathlib.PurePath(record.pathname).parts)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    previous = sys.unraisablehook

    def unraisablehook(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = unraisablehook


def reason(error: BaseException) -> str:
    """One line with the innermost cause of an error, without the details that orbax appends in brackets."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    line = f"{type(cause).__name__}: {cause}".strip().splitlines()[0]
    line = re.split(r" \[(?:tensorstore_spec|os_error_code)", line)[0]
    return line if len(line) <= 200 else f"... {line[-200:]}"
