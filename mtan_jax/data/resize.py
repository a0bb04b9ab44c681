"""Resizes arrays with Pillow."""

import functools
from typing import TypeVar

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

Scalar = TypeVar("Scalar", bound=np.generic)


def resize_bilinear(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resizes to `size` (height, width) bilinearly; where it shrinks, the filter widens with it (no aliasing)."""
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def resize_nearest(array: np.ndarray[tuple[int, ...], np.dtype[Scalar]], size: tuple[int, int]) -> np.ndarray:
    """Resizes an array [h, w, ...] of any type to `size` (height, width): the pixel that Pillow takes as nearest."""
    pixels = _nearest_pixels(array.shape[:2], tuple(size))
    return array.reshape(-1, *array.shape[2:])[pixels]


@functools.lru_cache(maxsize=8)
def _nearest_pixels(shape: tuple[int, int], size: tuple[int, int]) -> Int[np.ndarray, "h2 w2"]:
    height, width = size
    positions = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)
    return np.asarray(Image.fromarray(positions).resize((width, height), Image.Resampling.NEAREST))
