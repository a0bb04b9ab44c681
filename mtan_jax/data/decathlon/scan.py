"""Lists one folder of images, and checks its links and names."""

import dataclasses
import os
import stat

from mtan_jax.data.errors import RawDataError
from mtan_jax.data.raw.image_files import is_picture, is_stray, printable


@dataclasses.dataclass(frozen=True)
class Scan:
    """The sorted names in a folder. Links are followed; stray files and folders are omitted.

    Attributes:
        images: files with an image suffix, and links with such names, whose targets are not checked.
        links: the `images` that are links.
        folders: folders, whatever their names.
        others: everything else.
    """

    images: list[str]
    links: list[str]
    folders: list[str]
    others: list[str]


def scan(folder: str | os.PathLike[str]) -> Scan:
    """Lists a folder without a `stat` call per image.

    Raises:
        RawDataError: if the folder cannot be listed.
    """
    found = Scan([], [], [], [])
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if is_stray(name):
                    continue
                if is_picture(name) and not entry.is_dir(follow_symlinks=False):
                    if entry.is_symlink():
                        found.links.append(name)
                    elif not entry.is_file(follow_symlinks=False):  # a pipe or a device
                        found.others.append(name)
                        continue
                    found.images.append(name)
                elif _is_folder(entry):
                    found.folders.append(name)
                else:
                    found.others.append(name)
    except OSError as error:
        raise RawDataError(f"{printable(folder)}: the folder cannot be listed ({error.strerror}).") from error
    for names in (found.images, found.links, found.folders, found.others):
        names.sort()
    return found


def check_links(folder: str, found: Scan) -> None:
    """Checks the links in a folder.

    Raises:
        RawDataError: if a link is dangling, or has an image's name but does not lead to a file.
    """
    for name in found.links:
        path = os.path.join(folder, name)
        if not stat.S_ISREG(_stat_target(path).st_mode):
            raise _bad_link(path, "not a file")
    for name in found.others:  # may include the link of a whole class
        path = os.path.join(folder, name)
        if os.path.islink(path):
            _stat_target(path)


def check_names(folder: str, names: list[str]) -> None:
    """Checks that names are valid UTF-8, because they become example ids and class names.

    Raises:
        RawDataError: if a name is not.
    """
    try:
        "/".join(names).encode()
    except UnicodeEncodeError:
        name = next(name for name in names if not _is_utf8(name))
        raise RawDataError(
            f"{printable(os.path.join(folder, name))}: the name is not valid UTF-8, but ids are stored as UTF-8. "
            "Rename it; `convmv -f latin1 -t utf8 -r --notest FOLDER` renames all names from Latin-1."
        ) from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stat_target(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise _bad_link(path, error.strerror) from error


def _bad_link(path: str, reason: str | None) -> RawDataError:
    target = printable(os.readlink(path))
    return RawDataError(
        f"{printable(path)}: links to {target}, which cannot be read ({reason}). Correct or remove the link."
    )
