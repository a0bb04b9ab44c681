"""Checks local paths given by users: expands the home directory and rejects remote paths and unusable folders."""

import os
import pathlib
import re

# Also with one slash, since pathlib turns "gs://bucket" into "gs:/bucket". One letter is a Windows drive.
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


class PathError(ValueError):
    """A path cannot be used; the message names the flag or field, the path and a remedy."""


def local(text: str, name: str) -> pathlib.Path:
    """Converts the value of a flag or field to a local path, with ~ and ~user expanded.

    Args:
        text: the value.
        name: name of the flag or field, such as "--workdir" or "config.data.raw_dir".

    Raises:
        PathError: the path is empty or remote, or the home directory is unknown.
    """
    check_local(text, name)
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:
        home = text.split("/", 1)[0]
        raise PathError(f"{name}={text}: the home directory {home} is unknown; use an absolute path") from error


def expanded(text: str) -> pathlib.Path:
    """Expands ~ and ~user, which shells do not expand in `--out=~/x`; a `type` for argparse."""
    return pathlib.Path(os.path.expanduser(text))


def check_local(text: str, name: str) -> None:
    """Raises a PathError for an empty or remote path."""
    if not text:
        raise PathError(f"{name} is empty; set a path or omit {name}")
    if is_remote(text):
        raise PathError(f"{name}={text}: expected a local path; use a local or mounted folder")


def is_remote(text: str) -> bool:
    """Whether a path has a scheme, such as s3://."""
    return "://" in text or _REMOTE.match(text) is not None


def check_folder(path: pathlib.Path, name: str, *, write: bool) -> None:
    """Checks that a folder exists or can be created.

    Args:
        path: path of the folder.
        name: name of the flag or field.
        write: whether the folder must be writable.

    Raises:
        PathError: the folder or one of its parents is a file or not writable.
    """
    existing = nearest(path)
    if not os.path.isdir(existing):
        kind = "a broken link" if os.path.islink(existing) else "a file"
        raise PathError(f"{name}={path}: {existing} is {kind}; expected a folder")
    if write and not os.access(existing, os.W_OK | os.X_OK):
        raise PathError(
            f"{name}={path}: {existing} is not writable for this user; use another folder or change its permissions"
        )


def nearest(path: pathlib.Path) -> pathlib.Path:
    """Returns the path if it exists, otherwise its nearest existing parent."""
    return next(candidate for candidate in (path, *path.absolute().parents) if os.path.lexists(candidate))
