"""Folders for what belongs in the home directory, where there is none: a user id alone, as in many containers."""

import contextlib
import functools
import logging
import os
import pathlib
import stat
import tempfile

from mtan_jax.runtime import paths

log = logging.getLogger(__name__)


def data_dir() -> str | None:
    """The folder of prepared data sets where none is given.

    None, which is TFDS' default, as long as that is there or can be made; a temporary folder otherwise, with a message.
    """
    if "TFDS_DATA_DIR" in os.environ or is_usable(pathlib.Path("~/tensorflow_datasets")):
        return None
    folder = temporary() / "tensorflow_datasets"
    _report("prepared data", folder, "config.data.data_dir")
    return str(folder)


def compilation_cache(text: str) -> pathlib.Path:
    """The folder of compiled programs: the one given, or a temporary folder with a message where it is of no use.

    Raises:
        PathError: it is empty or remote.
    """
    try:
        folder = paths.local(text, "config.compilation_cache")
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


def provide_matplotlib() -> None:
    """Chooses the folder of matplotlib's settings and fonts; to be called before matplotlib is imported.

    Without a folder that it can write, matplotlib makes one for each process, and warns.
    """
    given = os.environ.get("MPLCONFIGDIR")
    if given or is_usable(pathlib.Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "matplotlib"):
        return
    os.environ["MPLCONFIGDIR"] = str(temporary() / "matplotlib")


def is_usable(folder: pathlib.Path) -> bool:
    """Whether a folder can be written: one that is there, or that can be made."""
    try:
        paths.check_folder(folder.expanduser(), "", write=True)
    except (RuntimeError, paths.PathError):  # no home directory, or not a folder to write in
        return False
    return True


@functools.cache
def temporary() -> pathlib.Path:
    """A folder of this user's own below the system's temporary folder, the same for each process.

    Compiled programs are code that runs, so nobody else may write there: a folder of that name that others made or can
    write is left alone, and one of this process alone is made.
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
    log.warning("%s cannot be written, so %s go to %s; --%s=FOLDER sets another", text, what, folder, field)
