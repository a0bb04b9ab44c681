"""Errors of raw data."""


class RawDataError(FileNotFoundError):
    """The raw release is missing, incomplete, damaged or another one; the message says which file and what would do."""


class UnreadableError(RawDataError):
    """Several examples cannot be made; the message has a line for each.

    Attributes:
        faults: what is wrong with each.
    """

    def __init__(self, faults: list[str]):
        super().__init__(faults)  # so that it can be pickled
        self.faults = faults

    def __str__(self) -> str:
        return "\n".join(self.faults)
