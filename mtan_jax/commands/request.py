"""What the command line asks for."""

import dataclasses
import pathlib

import ml_collections


@dataclasses.dataclass(frozen=True)
class Request:
    """One call of the program.

    Attributes:
        config: of the run.
        workdir: of the run; None for commands that do without one.
        checkpoint: "newest", "best", a step, or "initial": the state before the first step.
        split: "train", "val" or "test".
        images: a folder of pictures, or one picture, to predict in place of the split.
        skip_unreadable: whether to skip unreadable pictures; otherwise they are an error.
        count: how many examples of the split to predict; 0: all.
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
        """The working directory, for commands that need one."""
        if self.workdir is None:
            raise ValueError("--workdir is needed, as in --workdir=runs/streets")
        return self.workdir
