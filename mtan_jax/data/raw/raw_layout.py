"""Layouts of raw datasets on disk: detection, and the error for a layout that is missing or incomplete."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mtan_jax.data.errors import RawDataError

_MAX_PARENTS = 3  # levels above the raw folder that are searched, to suggest the right folder in an error
_MAX_CHILDREN = 200  # folders that are searched on each of the 2 levels below it


@dataclasses.dataclass(frozen=True)
class RawLayout:
    """One of the layouts in which a raw dataset is distributed.

    Attributes:
        dataset: name of the dataset, for messages.
        name: of the layout, as in `--config.data.options.layout`.
        expected: the files expected below the raw folder, one line each.
        source: where to get them.
        signs: glob patterns; a folder in which one matches holds this layout.
        without: a similar configuration that needs no raw data.
        others: the other layouts that can be read, one line each.
    """

    dataset: str
    name: str
    expected: tuple[str, ...]
    source: str
    signs: tuple[str, ...]
    without: str = "configs/streets.py"
    others: tuple[str, ...] = ()

    def not_found(self, problem: str) -> RawDataError:
        """The error for a release that is in none of the places searched, which `problem` names."""
        return self._error(problem, [f"Expected there (layout {self.name!r}):"])

    def missing(self, raw_dir: Path | None, problem: str = "") -> RawDataError:
        """The error for a raw folder that does not exist or lacks files.

        Args:
            raw_dir: the folder searched; None where there is none.
            problem: what is missing or wrong, in one sentence.
        """
        if raw_dir is None:
            return self.not_found(f"{self.dataset} has no raw data: config.data.raw_dir is not set.")
        if not raw_dir.is_dir():
            problem = "There is no such folder: correct --config.data.raw_dir."
        if not self.lies_in(raw_dir):
            problem = f"{problem} {self._hint(raw_dir)}"
        return self._error(
            f"{self.dataset} is not prepared yet and its raw data are missing or incomplete. {problem}".rstrip(),
            [
                f"Looked in: {raw_dir} (--config.data.raw_dir names another folder)",
                f"Expected there (layout {self.name!r}):",
            ],
        )

    def wrong_layout(self, raw_dir: Path, found: "RawLayout") -> RawDataError:
        """The error for a raw folder that holds the dataset in the layout `found` instead of this one."""
        problem = f"The folder holds the layout {found.name!r}: set --config.data.options.layout={found.name}."
        return self.missing(raw_dir, problem)

    def lies_in(self, raw_dir: Path) -> bool:
        """Whether a folder appears to hold this layout; hidden files do not count."""
        found = (path.relative_to(raw_dir).parts for sign in self.signs for path in raw_dir.glob(sign))
        return any(not any(part.startswith(".") for part in parts) for parts in found)

    def nearby(self, raw_dir: Path) -> list[Path]:
        """The nearest folders above or below `raw_dir` that appear to hold this layout."""
        folder = Path(os.path.abspath(raw_dir))  # not resolved: links keep the names that the user knows
        for parent in itertools.islice(folder.parents, _MAX_PARENTS):
            if self.lies_in(parent):
                return [parent]
        below = list(itertools.islice(_subfolders([folder]), _MAX_CHILDREN))
        for level in (below, itertools.islice(_subfolders(below), _MAX_CHILDREN)):
            if found := [child for child in level if self.lies_in(child)]:
                return found
        return []

    def _error(self, problem: str, places: Sequence[str]) -> RawDataError:
        details = [
            *places,
            *(f"  {line}" for line in self.expected),
            f"Source: {self.source}",
            *(f"Another layout that can be read: {line}" for line in self.others),
            f"{self.without} needs no raw data.",
        ]
        return RawDataError("\n  ".join([problem, *details]))

    def _hint(self, raw_dir: Path) -> str:
        found = self.nearby(raw_dir)
        if len(found) == 1:
            return f"This folder looks right: set --config.data.raw_dir={found[0]}."
        listed = ", ".join(map(str, found[:5]))
        return f"These folders each appear to hold a part: {listed}. Name one that holds all parts." if found else ""


def choose_layout(layouts: Sequence[RawLayout], raw_dir: Path | None, is_prepared: Callable[[str], bool]) -> str:
    """Chooses the layout for `layout="auto"`.

    The first of these that applies: the layout that the raw folder holds, the layout from which the dataset is already
    prepared, a layout in a folder nearby (so that the error suggests that folder), the first layout.

    Args:
        layouts: of the dataset.
        raw_dir: the raw folder; None where there is none.
        is_prepared: whether the dataset is prepared from the layout of this name.

    Returns:
        The name of the layout.

    Raises:
        ValueError: several layouts apply.
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
    """The folders in these, except hidden and unreadable ones."""
    for folder in folders:
        try:
            yield from sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        except OSError:
            continue
