"""Finds the user's pictures that are predicted, and names their results."""

import collections
import logging
import os
import pathlib
from collections.abc import Iterable, Mapping

from mtan_jax.data.errors import RawDataError
from mtan_jax.data.raw.image_files import KNOWN_FORMATS, is_picture, is_stray, printable, read_rgb

log = logging.getLogger(__name__)

_LONGEST_NAME = 255  # bytes of a file's name, on all common file systems
_LISTED = 20  # unreadable pictures that a message names


def find_images(path: pathlib.Path, skip_unreadable: bool) -> dict[str, pathlib.Path]:
    """Lists the pictures of a folder, each of which was read once, so that a bad one shows before any is predicted.

    Stray files are skipped; other files that are no pictures, and subfolders with pictures, are counted in the log.

    Args:
        path: of a folder, or of one picture.
        skip_unreadable: skip unreadable pictures with a warning that names them, instead of raising an error.

    Returns:
        Paths by the names of their results, ordered by file name. A name is the file's without its suffix; with it
        where two files would share a name.

    Raises:
        ValueError: there is no picture, or an unreadable one; the message names it.
    """
    if path.is_dir():
        paths = _list_folder(path)
    elif path.exists():
        paths = [path]
    else:
        raise ValueError(f"--images={printable(path)}: not found; a folder of pictures or one picture is needed")
    faults = {path: fault for path in paths if (fault := _fault(path))}
    if faults:
        lines = "".join(f"\n  {fault}" for fault in list(faults.values())[:_LISTED])
        more = f"\n  and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        if not skip_unreadable or len(faults) == len(paths):
            others = "" if len(faults) == len(paths) else " --unreadable=skip predicts the others."
            raise ValueError(
                f"--images={printable(path)}: {len(faults)} of {len(paths)} pictures cannot be read; nothing was "
                f"predicted.{others}{lines}{more}"
            )
        log.warning("skipping %d of %d pictures, which cannot be read:%s%s", len(faults), len(paths), lines, more)
    return name_results(each for each in paths if each not in faults)


def output_folder(workdir: pathlib.Path, images: pathlib.Path) -> pathlib.Path:
    """Where the results for `images` (a folder, or a picture in it) go: `figures/<name of the folder>/`.

    Raises:
        ValueError: that is the folder of the pictures itself.
    """
    folder = (images if images.is_dir() else images.parent).resolve()
    output = workdir / "figures" / folder.name
    if output.resolve() == folder:
        raise ValueError(f"--images={printable(images)}: the results would overwrite these pictures; rename the folder")
    return output


def name_results(paths: Iterable[pathlib.Path]) -> dict[str, pathlib.Path]:
    """The paths by names that differ, even where capitals and small letters are one: stems, or else file names."""
    paths = list(paths)
    taken = collections.Counter(path.stem.casefold() for path in paths)
    taken.update({path.name.casefold() for path in paths if path.suffix})
    return {path.stem if taken[path.stem.casefold()] == 1 else path.name: path for path in paths}


def check_lengths(paths: Mapping[str, pathlib.Path], longest_suffix: str) -> None:
    """Raises ValueError where the name of a result would be too long with the suffix; the message names the picture."""
    for name, path in paths.items():
        excess = len(os.fsencode(name + longest_suffix)) - _LONGEST_NAME
        if excess > 0:
            raise ValueError(f"{printable(path)}: the name is too long for its results; shorten it by {excess} bytes")


def _fault(path: pathlib.Path) -> str | None:
    try:
        read_rgb(path)
    except RawDataError as error:
        return str(error)
    return None


def _list_folder(folder: pathlib.Path) -> list[pathlib.Path]:
    """The pictures of a folder, by name; logs what else there is."""
    pictures, others, subfolders = [], collections.Counter[str](), []
    for path in sorted(folder.iterdir()):
        if is_stray(path.name):
            continue
        if path.is_dir():
            subfolders += [printable(path.name)] if is_picture(path.name) or _holds_pictures(path) else []
        elif is_picture(path.name):
            pictures.append(path)
        else:
            others[printable(path.suffix.lower()) or "none"] += 1
    left = []
    if others:
        suffixes = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(8))
        left.append(f"{others.total()} files whose suffix is no picture's ({suffixes})")
    if subfolders:
        more = f" and {len(subfolders) - 8} more" if len(subfolders) > 8 else ""
        left.append(f"{len(subfolders)} folders of pictures ({', '.join(subfolders[:8])}{more})")
    found = " and ".join(left)
    if not pictures:
        raise ValueError(
            f"--images={printable(folder)}: a folder with images ({KNOWN_FORMATS}) is needed; found {found or 'none'}"
        )
    if found:
        log.info("left out %s", found)
    return pictures


def _holds_pictures(folder: pathlib.Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(is_picture(entry.name) for entry in entries)
    except OSError:  # not ours to read
        return False
