"""Finds out which processes of a run see the same folder."""

import contextlib
import pathlib
import secrets
import socket
import time
from collections.abc import Callable

import jax

from mtan_jax.runtime import activity, parallel

TOKEN_FILE = ".shared"
SECONDS = 30.0  # network file systems may show a new file late


class SharedFolderError(ValueError):
    """Some processes do not see a folder that all of them must share."""


def check_shared(folder: pathlib.Path, name: str) -> None:
    """Checks that all processes see the same folder: process 0 writes a file that the others must read.

    Args:
        folder: created if it is missing.
        name: of the flag or field that names the folder, for the message.

    Raises:
        SharedFolderError: some processes do not see the file within `SECONDS`. The message names them and their hosts.
    """
    blind = blind_processes(folder)
    if blind:
        listed = ", ".join(f"process {i} on host {host}" for i, host in blind.items())
        raise SharedFolderError(
            f"{name}={folder} is not shared: {listed} did not see within {SECONDS:g} s what process 0 wrote there. Use "
            "a folder on a disk that all hosts share."
        )


def blind_processes(folder: pathlib.Path) -> dict[int, str]:
    """The processes that do not see process 0's folder within `SECONDS`, and their hosts.

    Args:
        folder: created if it is missing.
    """
    if jax.process_count() == 1:
        return {}
    token = parallel.gather_texts(secrets.token_hex(8))[0]
    path = folder / TOKEN_FILE
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(token)
    parallel.wait_for_all("the token is written")
    with activity.doing(f"waiting to see {path}, which process 0 wrote", "wait"):
        is_seen = _is_seen(path, token)
    states = parallel.gather_texts("seen" if is_seen else socket.gethostname())
    if jax.process_index() == 0:
        path.unlink()
    return {i: state for i, state in enumerate(states) if state != "seen"}


def _is_seen(path: pathlib.Path, token: str) -> bool:
    def is_there() -> bool:
        with contextlib.suppress(OSError):
            return path.read_text() == token
        return False

    return wait_until(is_there)


def wait_until(condition: Callable[[], bool]) -> bool:
    """Waits for `SECONDS` at most until what another process wrote is visible; returns whether it is."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
