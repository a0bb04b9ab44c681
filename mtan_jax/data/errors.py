"""Errors about raw and prepared data."""


class RawDataError(FileNotFoundError):
    """The raw release is missing, incomplete, damaged or changed; the message names the file and a remedy."""


class UnreadableError(RawDataError):
    """Several examples cannot be read; the message has one line for each.

    Attributes:
        faults: one message per example.
    """

    def __init__(self, faults: list[str]):
        super().__init__(faults)  # so that it can be pickled
        self.faults = faults

    def __str__(self) -> str:
        return "\n".join(self.faults)


class PreparedDataError(ValueError):
    """A prepared dataset cannot be read; the message names it and a remedy."""
