"""How a raw data set should lie on disk, and the error that says it does not."""

import dataclasses
from pathlib import Path

from mtan_jax.data.builder import RawDataError


@dataclasses.dataclass(frozen=True)
class RawLayout:
    """One of the layouts in which a raw data set is known to come.

    Attributes:
        dataset: name of the data set, for messages.
        name: of the layout, as in `--config.data.options.layout`.
        expected: the files looked for below the raw folder, a line each.
        source: where one gets them.
        signs: patterns of paths; a match tells that a folder holds this layout.
        without: the configuration of the same kind that needs no raw data.
    """

    dataset: str
    name: str
    expected: tuple[str, ...]
    source: str
    signs: tuple[str, ...]
    without: str = "configs/streets.py"

    def missing(self, raw_dir: Path | None, problem: str = "") -> RawDataError:
        """The error for raw data that are not there: files expected, place looked in, source, and what needs none.

        Args:
            raw_dir: the place looked in; None where none was given.
            problem: what exactly is missing or different, in a sentence.
        """
        if raw_dir is None:
            problem = "No raw folder was given: name it with --config.data.raw_dir=FOLDER."
        elif not raw_dir.is_dir():
            problem = "There is no such folder: correct --config.data.raw_dir."
        lines = [
            f"{self.dataset} is not prepared yet and its raw data are missing or incomplete. {problem}".rstrip(),
            f"  Looked in: {raw_dir} (--config.data.raw_dir)",
            f"  Expected there (layout {self.name!r}):",
            *(f"    {line}" for line in self.expected),
            f"  Source: {self.source}",
            f"  {self.without} needs no raw data.",
        ]
        return RawDataError("\n".join(lines))

    def wrong_layout(self, raw_dir: Path, found: "RawLayout") -> RawDataError:
        """The error for a raw folder that holds the data set in the layout `found` instead of this one."""
        problem = f"The folder holds the layout {found.name!r}: set --config.data.options.layout={found.name}."
        return self.missing(raw_dir, problem)

    def lies_in(self, raw_dir: Path) -> bool:
        """Whether a folder looks as if it held this layout."""
        return any(True for sign in self.signs for _ in raw_dir.glob(sign))
