"""Shared code of the scripts that make raw data: arguments, hard links, atomically created folders."""

import argparse
import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from mtan_jax.runtime import paths

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
SCRATCH = ROOT / "runs" / "life_size"


def parser(text: str | None) -> argparse.ArgumentParser:
    """Makes the parser with the arguments of every script here; `text` is the docstring of the script."""
    result = argparse.ArgumentParser(description=(text or "").splitlines()[0])
    result.add_argument("--scratch", type=paths.expanded, default=SCRATCH, help="raw data, prepared datasets, logs")
    result.add_argument(
        "--shared", type=paths.expanded, default=ROOT.parent / "shared", help="folder that holds data/nyuv2_full"
    )
    result.add_argument(
        "--fraction", type=float, default=1.0, help="share of the official number of images, for a quick test"
    )
    return result


def part_of(count: int, fraction: float, least: int = 1) -> int:
    """Scales a number of images."""
    return count if fraction == 1 else min(count, max(least, round(count * fraction)))


@contextlib.contextmanager
def whole(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary folder that is renamed to `folder` once everything is written.

    After an interruption the same temporary folder is yielded again; keep the files that exist.
    """
    part = folder.with_name(folder.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    yield part
    part.rename(folder)


def link(source: pathlib.Path, target: pathlib.Path | str) -> None:
    """Creates a hard link, unless it exists."""
    with contextlib.suppress(FileExistsError):
        os.link(source, target)


def remove(folder: pathlib.Path) -> None:
    """Removes a file or folder, if it exists; removes a symbolic link, not its target."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)
