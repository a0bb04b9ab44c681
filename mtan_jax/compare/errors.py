"""Errors of comparisons."""


class ComparisonError(ValueError):
    """Runs cannot be compared as asked; the message names the runs or the argument, and what to do."""
