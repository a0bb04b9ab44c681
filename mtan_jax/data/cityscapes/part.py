"""One part of the Cityscapes release, such as gtFine: a folder, or the zip as downloaded."""

import dataclasses
import functools
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from mtan_jax.data.errors import RawDataError


@dataclasses.dataclass
class Part:
    """Files of one kind, told by their names below the raw folder, which are those in the zip too.

    Attributes:
        raw_dir: holds the folder or the zip.
        name: of the folder, such as "gtFine"; the zip adds "_trainvaltest.zip".
        suffix: of the files that count, such as "_gtFine_labelIds.png".
    """

    raw_dir: Path
    name: str
    suffix: str

    @property
    def zip_path(self) -> Path:
        return self.raw_dir / f"{self.name}_trainvaltest.zip"

    @property
    def is_zip(self) -> bool:
        """Whether the zip is read; the folder wins where both are there, unless nothing is in it."""
        return not any((self.raw_dir / self.name).glob("*/*")) and (
            self.zip_path.is_file() or not (self.raw_dir / self.name).is_dir()
        )

    def files(self) -> list[str]:
        """Names of the files of train and val: "gtFine/val/CITY/..."; empty where nothing is there."""
        if not self.is_zip:
            paths = self.raw_dir.glob(f"{self.name}/*/*/*{self.suffix}")
            names = [path.relative_to(self.raw_dir).as_posix() for path in paths]
        else:
            names = self._archive.namelist() if self.zip_path.is_file() else []
        return [name for name in names if self._counts(name)]

    def raw_files(self) -> Iterator[str]:
        """Paths of the files, or of the zip."""
        if not self.is_zip:
            yield from (str(self.raw_dir / name) for name in sorted(self.files()))
        elif self.zip_path.is_file():
            yield str(self.zip_path)

    def read(self, name: str) -> bytes:
        """The content of a file; from a zip without extracting it to disk."""
        if not self.is_zip:
            try:
                return (self.raw_dir / name).read_bytes()
            except OSError as error:
                raise RawDataError(f"{self.where(name)}: cannot be read ({error.strerror}).") from error
        try:
            return self._archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise RawDataError(f"{self.where(name)}: damaged ({error}). Get the zip anew.") from error

    def close(self) -> None:
        """Closes the zip, if it is open."""
        if "_archive" in self.__dict__:
            self._archive.close()
            del self._archive

    def where(self, name: str) -> str:
        """A file's place, for messages."""
        return f"{self.zip_path}:{name}" if self.is_zip else str(self.raw_dir / name)

    def _counts(self, name: str) -> bool:
        parts = name.split("/")
        right_place = len(parts) == 4 and parts[0] == self.name and parts[1] in ("train", "val")
        stray = any(part.startswith(".") for part in parts)  # such as "._aachen_..." of macOS
        return right_place and not stray and name.endswith(self.suffix)

    @functools.cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.zip_path)
        except PermissionError as error:
            raise RawDataError(f"{self.zip_path}: cannot be opened ({error.strerror}).") from error
        except (zipfile.BadZipFile, OSError) as error:
            raise RawDataError(f"{self.zip_path}: truncated or damaged zip ({error}). Get it anew.") from error
