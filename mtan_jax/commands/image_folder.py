"""Finds the user's images and names their results."""

import collections
import logging
import os
import pathlib
from collections.abc import Iterable, Mapping

from mtan_jax.data.errors import RawDataError
from mtan_jax.data.raw.image_files import KNOWN_FORMATS, is_picture, is_stray, printable, read_rgb

log = logging.getLogger(__name__)

_LONGEST_NAME = 255  # bytes of a file's name, on all common file systems
_LISTED = 20  # unreadable images named in a message


def find_images(path: pathlib.Path, skip_unreadable: bool) -> dict[str, pathlib.Path]:
    """Lists the images of a folder. Reads each of them, so that unreadable ones are reported before predictions start.

    Hidden and system files are skipped. Files of other types, and subfolders that contain images, are skipped too, and
    counted in the log.

    Args:
        path: of a folder, or of one image.
        skip_unreadable: whether to skip unreadable images with a warning that names them.

    Returns:
        Paths by the names of their results, ordered by file name. The name is the file name without its suffix, or with
        it if two files would share a name.

    Raises:
        ValueError: there is no image, or an image is unreadable; the message names it.
    """
    if path.is_dir():
        paths = _list_folder(path)
    elif path.exists():
        paths = [path]
    else:
        raise ValueError(f"--images={printable(path)}: not found; expected a folder of images, or one image")
    faults = {path: fault for path in paths if (fault := _fault(path))}
    if faults:
        lines = "".join(f"\n  {fault}" for fault in list(faults.values())[:_LISTED])
        more = f"\n  and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        if not skip_unreadable or len(faults) == len(paths):
            others = "" if len(faults) == len(paths) else " --unreadable=skip predicts the others."
            raise ValueError(
                f"--images={printable(path)}: {len(faults)} of {len(paths)} images cannot be read; nothing was "
                f"predicted.{others}{lines}{more}"
            )
        log.warning("skipping %d of %d images, which cannot be read:%s%s", len(faults), len(paths), lines, more)
    return name_results(each for each in paths if each not in faults)


def output_folder(workdir: pathlib.Path, images: pathlib.Path) -> pathlib.Path:
    """The folder of the results for `images`: `figures/<name of the folder, or of the folder of the image>/`.

    Raises:
        ValueError: it is the folder of the images.
    """
    folder = (images if images.is_dir() else images.parent).resolve()
    output = workdir / "figures" / folder.name
    if output.resolve() == folder:
        raise ValueError(f"--images={printable(images)}: the results would overwrite these images; rename the folder")
    return output


def name_results(paths: Iterable[pathlib.Path]) -> dict[str, pathlib.Path]:
    """Names each path by its stem, or by its file name if stems collide. Names differ even if case is ignored."""
    paths = list(paths)
    taken = collections.Counter(path.stem.casefold() for path in paths)
    taken.update({path.name.casefold() for path in paths if path.suffix})
    return {path.stem if taken[path.stem.casefold()] == 1 else path.name: path for path in paths}


def check_lengths(paths: Mapping[str, pathlib.Path], longest_suffix: str) -> None:
    """Raises a ValueError that names the image if the name of a result would be too long with the suffix."""
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
    """Lists the images of a folder by name, and logs what else it holds."""
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
        left.append(f"{others.total()} files with other suffixes ({suffixes})")
    if subfolders:
        more = f" and {len(subfolders) - 8} more" if len(subfolders) > 8 else ""
        left.append(f"{len(subfolders)} folders with images ({', '.join(subfolders[:8])}{more})")
    found = " and ".join(left)
    if not pictures:
        raise ValueError(
            f"--images={printable(folder)}: expected a folder with images ({KNOWN_FORMATS}); found {found or 'none'}"
        )
    if found:
        log.info("skipped %s", found)
    return pictures


def _holds_pictures(folder: pathlib.Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(is_picture(entry.name) for entry in entries)
    except OSError:  # no permission to read it
        return False
