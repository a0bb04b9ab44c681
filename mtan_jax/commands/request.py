"""A parsed command line."""

import dataclasses
import pathlib

import ml_collections


@dataclasses.dataclass(frozen=True)
class Request:
    """A parsed command line.

    Attributes:
        config: of the run.
        workdir: of the run; None for commands that need none.
        checkpoint: "newest", "best", a step, or "initial": the state before the first step.
        split: "train", "val" or "test".
        images: a folder of images, or one image, to predict instead of the split.
        skip_unreadable: whether unreadable images are skipped instead of being an error.
        count: number of examples of the split to predict; 0: all.
        output: the file to export to.
    """

    config: ml_collections.ConfigDict
    workdir: pathlib.Path | None
    checkpoint: str = "newest"
    split: str = "val"
    images: str | None = None
    skip_unreadable: bool = False
    count: int = 8
    output: str | None = None

    @property
    def folder(self) -> pathlib.Path:
        """The working directory, for commands that need one. Raises a ValueError if there is none."""
        if self.workdir is None:
            raise ValueError("this mode needs a working directory, such as --workdir=runs/streets")
        return self.workdir
