"""Checks that all processes of a run see the same folder."""

import logging
import pathlib
import secrets
import socket
import time

import jax

from mtan_jax.runtime import parallel

TOKEN_FILE = ".shared"
SECONDS = 30.0  # network file systems may show a new file late

log = logging.getLogger(__name__)


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
    if jax.process_count() == 1:
        return
    token = parallel.gather_texts(secrets.token_hex(8))[0]
    path = folder / TOKEN_FILE
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(token)
    parallel.wait_for_all("the token is written")
    states = parallel.gather_texts("seen" if _is_seen(path, token) else socket.gethostname())
    if jax.process_index() == 0:
        path.unlink()
    blind = [f"process {i} on host {state}" for i, state in enumerate(states) if state != "seen"]
    if blind:
        raise SharedFolderError(
            f"{name}={folder} is not shared: {', '.join(blind)} did not see within {SECONDS:g} s what process 0 wrote "
            "there. Use a folder on a disk that all hosts share."
        )


def _is_seen(path: pathlib.Path, token: str) -> bool:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            if path.read_text() == token:
                return True
        except OSError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
