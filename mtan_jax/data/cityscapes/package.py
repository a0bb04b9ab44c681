"""Reads one package of the Cityscapes release, such as gtFine, from its folder or from the downloaded zip."""

import dataclasses
import functools
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from mtan_jax.data.errors import RawDataError


@dataclasses.dataclass
class Package:
    """The files of one package, identified by their paths relative to `raw_dir`, which are also their paths in the zip.

    Attributes:
        raw_dir: contains the folder or the zip.
        name: name of the folder, such as "gtFine"; the zip is named "gtFine_trainvaltest.zip".
        suffix: end of the names of the files to read, such as "_gtFine_labelIds.png".
    """

    raw_dir: Path
    name: str
    suffix: str

    @property
    def zip_path(self) -> Path:
        return self.raw_dir / f"{self.name}_trainvaltest.zip"

    @property
    def is_zip(self) -> bool:
        """Whether files are read from the zip. The folder takes precedence unless it is empty."""
        return not any((self.raw_dir / self.name).glob("*/*")) and (
            self.zip_path.is_file() or not (self.raw_dir / self.name).is_dir()
        )

    def files(self) -> list[str]:
        """Returns the file names of train and val, such as "gtFine/val/CITY/..."; none if both are missing."""
        if not self.is_zip:
            paths = self.raw_dir.glob(f"{self.name}/*/*/*{self.suffix}")
            names = [path.relative_to(self.raw_dir).as_posix() for path in paths]
        else:
            names = self._archive.namelist() if self.zip_path.is_file() else []
        return [name for name in names if self._is_wanted(name)]

    def raw_files(self) -> Iterator[str]:
        """Yields the paths of the files, or of the zip."""
        if not self.is_zip:
            yield from (str(self.raw_dir / name) for name in sorted(self.files()))
        elif self.zip_path.is_file():
            yield str(self.zip_path)

    def read(self, name: str) -> bytes:
        """Returns the content of a file. Files in a zip are not extracted to disk.

        Raises:
            RawDataError: if the file is unreadable or damaged.
        """
        if not self.is_zip:
            try:
                return (self.raw_dir / name).read_bytes()
            except OSError as error:
                raise RawDataError(f"{self.location(name)}: cannot be read ({error.strerror}).") from error
        try:
            return self._archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise RawDataError(f"{self.location(name)}: damaged ({error}). Download the zip again.") from error

    def close(self) -> None:
        """Closes the zip if it is open."""
        if "_archive" in self.__dict__:
            self._archive.close()
            del self._archive

    def location(self, name: str) -> str:
        """Where a file is, for error messages."""
        return f"{self.zip_path}:{name}" if self.is_zip else str(self.raw_dir / name)

    def _is_wanted(self, name: str) -> bool:
        parts = name.split("/")
        expected_depth = len(parts) == 4 and parts[0] == self.name and parts[1] in ("train", "val")
        hidden = any(part.startswith(".") for part in parts)  # such as the "._aachen_..." files of macOS
        return expected_depth and not hidden and name.endswith(self.suffix)

    @functools.cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.zip_path)
        except PermissionError as error:
            raise RawDataError(f"{self.zip_path}: cannot be opened ({error.strerror}).") from error
        except (zipfile.BadZipFile, OSError) as error:
            raise RawDataError(f"{self.zip_path}: truncated or damaged zip ({error}). Download it again.") from error
