"""Resizes arrays with Pillow."""

import functools
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float32, Int, UInt8
from PIL import Image

Scalar = TypeVar("Scalar", bound=np.generic)


class Pixels(NamedTuple):
    """A subgrid of pixels: the intersections of `rows` and `columns`, both ascending."""

    rows: Int[np.ndarray, "r"]
    columns: Int[np.ndarray, "c"]


def resize_bilinear(
    image: UInt8[np.ndarray, "h w 3"] | Float32[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2 3"] | Float32[np.ndarray, "h2 w2 3"]:
    """Resizes to `size` (height, width) bilinearly, with antialiasing where it shrinks."""
    height, width = size
    if image.dtype == np.uint8:
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    planes = (Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(image, -1, 0))
    return np.stack([np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR)) for plane in planes], axis=-1)


def resize_nearest(array: np.ndarray[tuple[int, ...], np.dtype[Scalar]], size: tuple[int, int]) -> np.ndarray:
    """Resizes an array [h, w, ...] of any dtype to `size` (height, width) with Pillow's nearest-pixel rule."""
    rows, columns = nearest_pixels((array.shape[0], array.shape[1]), (size[0], size[1]))
    return array[rows[:, None], columns]


@functools.lru_cache(maxsize=8)
def nearest_pixels(shape: tuple[int, int], size: tuple[int, int]) -> Pixels:
    """The rows and columns that `resize_nearest` selects from an array of `shape` for one of `size`."""
    height, width = size
    positions = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)
    selected = np.asarray(Image.fromarray(positions).resize((width, height), Image.Resampling.NEAREST))
    return Pixels(selected[:, 0] // shape[1], selected[0] % shape[1])
