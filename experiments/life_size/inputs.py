"""What the makers of raw data share: where things lie in the scratch folder, and folders that are whole or absent."""

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
    """The arguments that every script here has; `text` is its docstring."""
    result = argparse.ArgumentParser(description=(text or "").splitlines()[0])
    result.add_argument("--scratch", type=paths.expanded, default=SCRATCH, help="raw data, prepared datasets, logs")
    result.add_argument("--shared", type=paths.expanded, default=ROOT.parent / "shared", help="holds data/nyuv2_full")
    result.add_argument("--fraction", type=float, default=1.0, help="of the official number of images, to try this out")
    return result


def part_of(count: int, fraction: float, least: int = 1) -> int:
    """A number of images, made smaller."""
    return count if fraction == 1 else min(count, max(least, round(count * fraction)))


@contextlib.contextmanager
def whole(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a folder beside `folder`, which takes its name once everything is written.

    What an interrupted maker wrote is found there again; files that exist are to be kept.
    """
    part = folder.with_name(folder.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    yield part
    part.rename(folder)


def link(source: pathlib.Path, target: pathlib.Path | str) -> None:
    """Makes a hard link, unless it exists."""
    with contextlib.suppress(FileExistsError):
        os.link(source, target)


def remove(folder: pathlib.Path) -> None:
    """Removes a file or folder, if it exists; of a symbolic link only the link."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)
