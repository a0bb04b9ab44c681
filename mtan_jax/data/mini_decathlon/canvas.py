"""A picture of any size: its coordinates, and antialiased masks of areas and strokes on it."""

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter

Points = Float[np.ndarray, "n 2"]
Mask = Float[np.ndarray, "h w"]  # 1 inside, 0 outside, between them on the border
Picture = Float[np.ndarray, "h w 3"]  # in 0..1

_OVER = 4  # masks are drawn this many times larger, and reduced
_GRID_OVER = 2  # the same for patterns, which cost more and have softer edges


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Where things lie on a picture, whatever its size.

    Positions are (x to the right, y down). (0, 0) is the middle of the picture and 1 the half of its shorter side; so
    are all lengths.

    Attributes:
        height: in pixels.
        width: in pixels.
    """

    height: int
    width: int

    @property
    def unit(self) -> float:
        """Pixels in a length of 1."""
        return min(self.height, self.width) / 2

    def grid(self) -> tuple[Float[np.ndarray, "a b"], Float[np.ndarray, "a b"]]:
        """The positions (x, y) of samples, finer than the pixels; `reduce` makes pixels of their values."""
        return _grid(self.height, self.width)

    def reduce(self, values: Float[np.ndarray, "a b"]) -> Mask:
        """The mean of the samples in each pixel."""
        return values.reshape(self.height, _GRID_OVER, self.width, _GRID_OVER).mean((1, 3), dtype=np.float32)

    def area(self, outline: Points, hole: Points | None = None) -> Mask:
        """The mask of a closed outline, without that of the hole."""
        image, draw = self._blank()
        draw.polygon(self._pixels(outline), fill=255)
        if hole is not None:
            draw.polygon(self._pixels(hole), fill=0)
        return _reduced(image)

    def strokes(self, lines: Iterable[Points], thickness: float) -> Mask:
        """The mask of open lines with round ends."""
        image, draw = self._blank()
        pixels = max(1, round(thickness * self.unit * _OVER))
        for line in lines:
            places = self._pixels(line)
            draw.line(places, fill=255, width=pixels, joint="curve")
            for x, y in (places[0], places[-1]):
                draw.ellipse((x - pixels / 2, y - pixels / 2, x + pixels / 2, y + pixels / 2), fill=255)
        return _reduced(image)

    def blurred(self, picture: Picture, radius: float) -> Picture:
        """The picture behind a Gaussian blur of this standard deviation."""
        image = Image.fromarray(to_bytes(picture)).filter(ImageFilter.GaussianBlur(radius * self.unit))
        return np.asarray(image, np.float32) / 255

    def _blank(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        image = Image.new("L", (self.width * _OVER, self.height * _OVER))
        return image, ImageDraw.Draw(image)

    def _pixels(self, points: Points) -> list[tuple[float, float]]:
        middle = np.array([self.width, self.height]) / 2
        return [(x, y) for x, y in ((points * self.unit + middle) * _OVER).tolist()]


@functools.lru_cache(maxsize=4)
def _grid(height: int, width: int) -> tuple[Float[np.ndarray, "a b"], Float[np.ndarray, "a b"]]:
    half = min(height, width) / 2
    rows, columns = (((np.arange(side * _GRID_OVER) + 0.5) / _GRID_OVER - side / 2) / half for side in (height, width))
    y, x = np.meshgrid(rows.astype(np.float32), columns.astype(np.float32), indexing="ij")
    for array in (x, y):
        array.flags.writeable = False  # shared by all pictures
    return x, y


def _reduced(image: Image.Image) -> Mask:
    return np.asarray(image.reduce(_OVER), np.float32) / 255


def paint(picture: Picture, mask: Mask, colour: Float[np.ndarray, "3"] | Picture) -> Picture:
    """The picture with a colour, or another picture, where the mask is."""
    return picture + mask[..., None] * (np.asarray(colour, np.float32) - picture)


def to_bytes(picture: Picture) -> UInt8[np.ndarray, "h w 3"]:
    """The picture as it is stored; what is too dark or too bright is cut off."""
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def photographed(picture: Picture, rng: np.random.Generator, noise: float) -> UInt8[np.ndarray, "h w 3"]:
    """The finished picture, with Gaussian noise of this standard deviation.

    How much is drawn from `rng` depends on the size of the picture: call it last, and a scene stays what it is at
    another size.
    """
    return to_bytes(picture + noise * rng.standard_normal(picture.shape, dtype=np.float32))
