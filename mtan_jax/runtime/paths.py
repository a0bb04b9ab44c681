"""Paths that users give: the home directory filled in, what is no local path refused, and folders checked."""

import os
import pathlib
import re

# With one slash too: pathlib turns "gs://bucket" into "gs:/bucket". One letter is a drive of Windows.
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


class PathError(ValueError):
    """A path cannot be used; the message names the flag or field, what was found, and what would do."""


def local(text: str, name: str) -> pathlib.Path:
    """The path in a flag or a field, with ~ and ~user expanded.

    Args:
        text: as the user wrote it.
        name: of the flag or field, such as "--workdir" or "config.data.raw_dir".

    Raises:
        PathError: it is empty or remote, or there is no such home directory.
    """
    check_local(text, name)
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:
        home = text.split("/", 1)[0]
        raise PathError(f"{name}={text}: {home} is no known home directory; write the path in full") from error


def expanded(text: str) -> pathlib.Path:
    """The path with ~ and ~user expanded, which shells leave alone in `--out=~/x`; a `type` for argparse."""
    return pathlib.Path(os.path.expanduser(text))


def check_local(text: str, name: str) -> None:
    """Raises a PathError for an empty path and for one that is not on a local or mounted disk."""
    if not text:
        raise PathError(f"{name} is empty; give a path, or leave {name} out")
    if "://" in text or _REMOTE.match(text):
        raise PathError(f"{name}={text}: buckets are not supported yet; use a local folder or a mounted bucket")


def check_folder(path: pathlib.Path, name: str, *, write: bool) -> None:
    """Checks that a folder is there or can be made.

    Args:
        path: of the folder.
        name: of the flag or field.
        write: whether files will be made in it.

    Raises:
        PathError: it or a folder above it is a file, or cannot be written.
    """
    there = nearest(path)
    if not os.path.isdir(there):
        kind = "a broken link" if os.path.islink(there) else "a file"
        raise PathError(f"{name}={path}: {there} is {kind}; a folder is needed")
    if write and not os.access(there, os.W_OK | os.X_OK):
        raise PathError(
            f"{name}={path}: {there} cannot be written by this user; use another folder, or change its permissions"
        )


def nearest(path: pathlib.Path) -> pathlib.Path:
    """The path itself, or the nearest one above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
