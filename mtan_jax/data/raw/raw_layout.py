"""The layouts of raw datasets on disk: how one is recognized, and the error where it is not there."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mtan_jax.data.errors import RawDataError

_PARENTS = 3  # levels above the raw folder where a layout is looked for, to name the right folder in an error
_CHILDREN = 200  # folders below it, of either of 2 levels


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
        others: the layouts that are read besides, a line each.
    """

    dataset: str
    name: str
    expected: tuple[str, ...]
    source: str
    signs: tuple[str, ...]
    without: str = "configs/streets.py"
    others: tuple[str, ...] = ()

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
        if raw_dir is not None and not self.lies_in(raw_dir):
            problem = f"{problem} {self._hint(raw_dir)}"
        lines = [
            f"{self.dataset} is not prepared yet and its raw data are missing or incomplete. {problem}".rstrip(),
            f"  Looked in: {raw_dir} (--config.data.raw_dir)",
            f"  Expected there (layout {self.name!r}):",
            *(f"    {line}" for line in self.expected),
            f"  Source: {self.source}",
            *(f"  Another layout that is read: {line}" for line in self.others),
            f"  {self.without} needs no raw data.",
        ]
        return RawDataError("\n".join(lines))

    def wrong_layout(self, raw_dir: Path, found: "RawLayout") -> RawDataError:
        """The error for a raw folder that holds the data set in the layout `found` instead of this one."""
        problem = f"The folder holds the layout {found.name!r}: set --config.data.options.layout={found.name}."
        return self.missing(raw_dir, problem)

    def lies_in(self, raw_dir: Path) -> bool:
        """Whether a folder looks as if it held this layout; dot-files are no sign of it."""
        found = (path.relative_to(raw_dir).parts for sign in self.signs for path in raw_dir.glob(sign))
        return any(not any(part.startswith(".") for part in parts) for parts in found)

    def nearby(self, raw_dir: Path) -> list[Path]:
        """The folders above or below `raw_dir` that look as if they held this layout: the nearest ones."""
        folder = Path(os.path.abspath(raw_dir))  # not resolved: links keep the names that the user knows
        for parent in itertools.islice(folder.parents, _PARENTS):
            if self.lies_in(parent):
                return [parent]
        below = list(itertools.islice(_subfolders([folder]), _CHILDREN))
        for level in (below, itertools.islice(_subfolders(below), _CHILDREN)):
            if found := [child for child in level if self.lies_in(child)]:
                return found
        return []

    def _hint(self, raw_dir: Path) -> str:
        found = self.nearby(raw_dir)
        if len(found) == 1:
            return f"This folder looks right: set --config.data.raw_dir={found[0]}."
        listed = ", ".join(map(str, found[:5]))
        return f"These folders look as if they held some of it: {listed}. Name one that holds all." if found else ""


def choose_layout(layouts: Sequence[RawLayout], raw_dir: Path | None, is_prepared: Callable[[str], bool]) -> str:
    """Finds the layout that is meant where the user leaves it open.

    It is the one that the raw folder looks like; else the one in which the dataset is prepared already; else one that
    lies nearby, so that its error names the right folder; else the first.

    Args:
        layouts: those of the dataset.
        raw_dir: as given.
        is_prepared: whether the dataset is prepared from the layout of this name.

    Returns:
        The name of the layout.

    Raises:
        ValueError: several layouts fit.
    """
    if raw_dir is not None and (found := [layout for layout in layouts if layout.lies_in(raw_dir)]):
        return _only(found, f"{raw_dir} holds the layouts")
    if found := [layout for layout in layouts if is_prepared(layout.name)]:
        return _only(found, "the dataset is prepared from the layouts")
    near = (layout for layout in layouts if raw_dir is not None and layout.nearby(raw_dir))
    return next(near, layouts[0]).name


def _only(found: Sequence[RawLayout], where: str) -> str:
    if len(found) > 1:
        names = " and ".join(repr(layout.name) for layout in found)
        raise ValueError(
            f"layout='auto': {where} {names}; choose one, as in --config.data.options.layout={found[0].name}."
        )
    return found[0].name


def _subfolders(folders: Sequence[Path]) -> Iterator[Path]:
    """The folders in these, without hidden ones and without those that must not be read."""
    for folder in folders:
        try:
            yield from sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        except OSError:
            continue
