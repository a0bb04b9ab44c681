"""Resolution-independent coordinates, and antialiased masks of areas and strokes."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Points = Float[np.ndarray, "n 2"]
Mask = Float[np.ndarray, "h w"]  # 1 inside, 0 outside, in between on the border
Picture = Float[np.ndarray, "h w 3"]  # in 0..1

_OVERSAMPLING = 4  # of masks, along each axis
_GRID_OVERSAMPLING = 2  # of patterns, which cost more and have softer edges


@dataclasses.dataclass(frozen=True)
class Canvas:
    """The coordinate system of an image, independent of its size.

    Positions are (x to the right, y down). The origin is the centre of the image. The unit of positions and lengths is
    half the shorter side.

    Attributes:
        height: in pixels.
        width: in pixels.
    """

    height: int
    width: int

    @property
    def unit(self) -> float:
        """Number of pixels in one unit of length."""
        return min(self.height, self.width) / 2

    def grid(self) -> tuple[Float[np.ndarray, "a b"], Float[np.ndarray, "a b"]]:
        """Returns the positions (x, y) of samples finer than pixels; `reduce` averages their values per pixel."""
        return _grid(self.height, self.width)

    def reduce(self, values: Float[np.ndarray, "a b"]) -> Mask:
        """Returns the mean of the samples in each pixel."""
        return values.reshape(self.height, _GRID_OVERSAMPLING, self.width, _GRID_OVERSAMPLING).mean(
            (1, 3), dtype=np.float32
        )

    def area(self, outline: Points, hole: Points | None = None) -> Mask:
        """Returns the mask of a closed outline, optionally with a hole."""
        image, draw = self._blank()
        draw.polygon(self._pixels(outline), fill=255)
        if hole is not None:
            draw.polygon(self._pixels(hole), fill=0)
        return _reduced(image)

    def strokes(self, lines: Iterable[Points], thickness: float) -> Mask:
        """Returns the mask of open lines with round ends."""
        image, draw = self._blank()
        pixels = max(1, round(thickness * self.unit * _OVERSAMPLING))
        for line in lines:
            points = self._pixels(line)
            draw.line(points, fill=255, width=pixels, joint="curve")
            for x, y in (points[0], points[-1]):
                draw.ellipse((x - pixels / 2, y - pixels / 2, x + pixels / 2, y + pixels / 2), fill=255)
        return _reduced(image)

    def blur(self, picture: Picture, radius: float) -> Picture:
        """Applies a Gaussian blur with the standard deviation `radius`."""
        from PIL import Image, ImageFilter

        image = Image.fromarray(to_bytes(picture)).filter(ImageFilter.GaussianBlur(radius * self.unit))
        return np.asarray(image, np.float32) / 255

    def _blank(self) -> "tuple[Image.Image, ImageDraw.ImageDraw]":
        from PIL import Image, ImageDraw

        image = Image.new("L", (self.width * _OVERSAMPLING, self.height * _OVERSAMPLING))
        return image, ImageDraw.Draw(image)

    def _pixels(self, points: Points) -> list[tuple[float, float]]:
        middle = np.array([self.width, self.height]) / 2
        return [(x, y) for x, y in ((points * self.unit + middle) * _OVERSAMPLING).tolist()]


@functools.lru_cache(maxsize=4)
def _grid(height: int, width: int) -> tuple[Float[np.ndarray, "a b"], Float[np.ndarray, "a b"]]:
    half = min(height, width) / 2
    rows, columns = (
        ((np.arange(side * _GRID_OVERSAMPLING) + 0.5) / _GRID_OVERSAMPLING - side / 2) / half
        for side in (height, width)
    )
    y, x = np.meshgrid(rows.astype(np.float32), columns.astype(np.float32), indexing="ij")
    for array in (x, y):
        array.flags.writeable = False  # shared by all images
    return x, y


def _reduced(image: "Image.Image") -> Mask:
    return np.asarray(image.reduce(_OVERSAMPLING), np.float32) / 255


def paint(picture: Picture, mask: Mask, colour: Float[np.ndarray, "3"] | Picture) -> Picture:
    """Blends a colour or another picture into the picture where the mask is 1."""
    return picture + mask[..., None] * (np.asarray(colour, np.float32) - picture)


def to_bytes(picture: Picture) -> UInt8[np.ndarray, "h w 3"]:
    """Converts to 8 bits; values outside 0..1 are clipped."""
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def add_sensor_noise(picture: Picture, rng: np.random.Generator, noise: float) -> UInt8[np.ndarray, "h w 3"]:
    """Adds Gaussian noise with the standard deviation `noise` and converts to 8 bits.

    The number of draws from `rng` depends on the image size. Call this last, so that scenes do not.
    """
    return to_bytes(picture + noise * rng.standard_normal(picture.shape, dtype=np.float32))
