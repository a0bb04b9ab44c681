"""Folders for caches and prepared data, in the home directory or, if it is missing or read-only, a temporary folder.

Many containers run as a user id without a home directory.
"""

import contextlib
import functools
import logging
import os
import pathlib
import stat
import tempfile

from mtan_jax.runtime import paths

log = logging.getLogger(__name__)

COMPILATION_CACHE = "~/.cache/mtan_jax"  # default of config.compilation_cache


def data_dir() -> str | None:
    """Default folder of prepared datasets.

    Returns None, which selects TFDS' default, if the environment variable TFDS_DATA_DIR is set or
    `~/tensorflow_datasets` is writable. Otherwise logs a warning and returns a temporary folder.
    """
    if "TFDS_DATA_DIR" in os.environ or is_usable(pathlib.Path("~/tensorflow_datasets")):
        return None
    folder = temporary() / "tensorflow_datasets"
    _report("prepared data", folder, "config.data.data_dir")
    return str(folder)


def compilation_cache(text: str) -> pathlib.Path:
    """Folder of compiled programs.

    If `text` is the default, the environment variable JAX_COMPILATION_CACHE_DIR takes precedence. If the folder is not
    writable, this logs a warning and returns a temporary one.

    Args:
        text: `config.compilation_cache`.

    Raises:
        PathError: the path is empty or remote.
    """
    field = "config.compilation_cache"
    variable = "JAX_COMPILATION_CACHE_DIR"
    if text == COMPILATION_CACHE and os.environ.get(variable):
        text, field = os.environ[variable], variable
    try:
        folder = paths.local(text, field)
    except paths.PathError as error:
        if not isinstance(error.__cause__, RuntimeError):
            raise
    else:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if is_usable(folder):
                return folder
    folder = temporary() / "compiled"
    _report("compiled programs", folder, "config.compilation_cache", text)
    return folder


def mirrors() -> pathlib.Path:
    """Folder of the local mirrors of buckets."""
    folder = pathlib.Path(COMPILATION_CACHE) / "mirrors"
    return folder.expanduser() if is_usable(folder) else temporary() / "mirrors"


def is_default_cache(text: str) -> bool:
    """Whether neither `config.compilation_cache` nor JAX's environment variable names a folder of compiled programs."""
    return text == COMPILATION_CACHE and not os.environ.get("JAX_COMPILATION_CACHE_DIR")


def provide_matplotlib() -> None:
    """Sets a writable folder for matplotlib's settings and fonts. Call it before matplotlib is imported.

    Without one, matplotlib creates a folder per process and warns.
    """
    given = os.environ.get("MPLCONFIGDIR")
    if given or is_usable(pathlib.Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "matplotlib"):
        return
    os.environ["MPLCONFIGDIR"] = str(temporary() / "matplotlib")


def is_usable(folder: pathlib.Path) -> bool:
    """Whether a folder is writable or can be created."""
    try:
        paths.check_folder(folder.expanduser(), "", write=True)
    except (RuntimeError, paths.PathError):  # no home directory, or not a writable folder
        return False
    return True


@functools.cache
def temporary() -> pathlib.Path:
    """A private folder of this user in the system's temporary folder, the same for all processes.

    Compiled programs are executed, so no other user may be able to write there. If a folder of that name belongs to
    another user or is writable by others, a new folder for this process alone is created instead.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = pathlib.Path(tempfile.gettempdir()) / f"mtan_jax-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o077
    except OSError:  # another kind of file
        is_own = False
    return folder if is_own else pathlib.Path(tempfile.mkdtemp(prefix="mtan_jax-"))


@functools.cache
def _report(what: str, folder: pathlib.Path, field: str, text: str = "the home directory") -> None:
    log.warning(
        "%s is not writable, so %s are stored in %s; set --%s=FOLDER to use another folder", text, what, folder, field
    )
