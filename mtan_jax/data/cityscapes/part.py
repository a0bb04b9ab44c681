"""One part of the Cityscapes release, such as gtFine: a folder, or the zip as downloaded."""

import contextlib
import dataclasses
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from mtan_jax.data.builder import RawDataError

Read = Callable[[str], bytes]


@dataclasses.dataclass(frozen=True)
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
        """Whether the zip is read; the folder wins where both are there."""
        return not (self.raw_dir / self.name).is_dir()

    def files(self) -> dict[str, int]:
        """Names and sizes of the files of train and val: "gtFine/val/CITY/..."; empty where nothing is there."""
        if self.is_zip:
            if not self.zip_path.is_file():
                return {}
            with self._open_zip() as archive:
                sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        else:
            paths = self.raw_dir.glob(f"{self.name}/*/*/*{self.suffix}")
            sizes = {path.relative_to(self.raw_dir).as_posix(): path.stat().st_size for path in paths}
        return {name: size for name, size in sizes.items() if self._counts(name)}

    @contextlib.contextmanager
    def open(self) -> Iterator[Read]:
        """Gives a function that reads a file by its name; from a zip without extracting it to disk."""
        if not self.is_zip:
            yield lambda name: (self.raw_dir / name).read_bytes()
            return
        with self._open_zip() as archive:

            def read(name: str) -> bytes:
                try:
                    return archive.read(name)
                except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
                    raise RawDataError(f"{self.where(name)}: damaged ({error}). Get the zip anew.") from error

            yield read

    def where(self, name: str) -> str:
        """A file's place, for messages."""
        return f"{self.zip_path}:{name}" if self.is_zip else str(self.raw_dir / name)

    def _counts(self, name: str) -> bool:
        parts = name.split("/")
        right_place = len(parts) == 4 and parts[0] == self.name and parts[1] in ("train", "val")
        return right_place and name.endswith(self.suffix)

    def _open_zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.zip_path)
        except (zipfile.BadZipFile, OSError) as error:
            raise RawDataError(f"{self.zip_path}: truncated or damaged zip ({error}). Get it anew.") from error
