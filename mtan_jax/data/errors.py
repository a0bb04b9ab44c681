"""Errors of raw data."""


class RawDataError(FileNotFoundError):
    """The raw release is missing, incomplete, damaged or another one; the message says which file and what would do."""
