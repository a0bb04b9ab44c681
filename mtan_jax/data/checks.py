"""Checks of raw arrays and arguments; errors name the file or argument and the value found."""

import numpy as np
from jaxtyping import Float, Shaped

from mtan_jax.data.errors import RawDataError


def check_labels(labels: Shaped[np.ndarray, "h w"], lowest: int, highest: int, name: str) -> None:
    """Raises `RawDataError` unless a class map holds only integers from `lowest` to `highest`."""
    wrong = ~((labels >= lowest) & (labels <= highest))
    if labels.dtype.kind == "f":
        wrong |= labels != np.floor(labels)
    if wrong.any():
        raise RawDataError(
            f"{name}: label {labels[wrong][0]} {_where(wrong)} is outside its range; "
            f"expected whole numbers from {lowest} to {highest}."
        )


def check_depth(depth: Float[np.ndarray, "h w"], name: str) -> None:
    """Raises `RawDataError` unless a depth map is finite and non-negative."""
    wrong = ~(np.isfinite(depth) & (depth >= 0))
    if wrong.any():
        raise RawDataError(
            f"{name}: depth {depth[wrong][0]} {_where(wrong)}; expected finite values, 0 where undefined."
        )


def check_image_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns height and width as a tuple.

    Raises:
        ValueError: they are not two positive integers.
    """
    size = tuple(image_size)
    if len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
        raise ValueError(f"image_size: got {image_size!r}; expected height and width in pixels, such as (128, 256).")
    return size


def check_choice(field: str, value: object, known: tuple[object, ...]) -> None:
    """Raises `ValueError` unless `value` is one of `known`."""
    if value not in known:
        raise ValueError(f"{field}: got {value!r}; expected one of {', '.join(map(repr, known))}.")


def _where(wrong: np.ndarray) -> str:
    row, column = np.argwhere(wrong)[0][:2]
    return f"at row {row}, column {column} (and {wrong.sum() - 1} more pixels)"
