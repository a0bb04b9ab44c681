"""Random RGB colours in 0..1."""

import colorsys

import numpy as np
from jaxtyping import Float

Colour = Float[np.ndarray, "3"]
Range = tuple[float, float]


def random_colour(rng: np.random.Generator, saturation: Range = (0.1, 0.9), value: Range = (0.15, 0.95)) -> Colour:
    """Returns a random colour of any hue."""
    return hue_colour(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))


def hue_colour(hue: float, saturation: float, value: float) -> Colour:
    """Converts hue (with period 1), saturation and value to RGB."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32)


def contrasting(rng: np.random.Generator, colour: Colour, distance: Range, tint: float = 0.5) -> Colour:
    """Returns a colour that differs by `distance` in brightness, and by `tint` times that in hue."""
    wanted = rng.uniform(*distance)
    shift = rng.normal(size=3) * tint * wanted
    ends = [np.clip(colour + sign * wanted + shift - shift.mean(), 0, 1).astype(np.float32) for sign in (1, -1)]
    near, far = sorted(ends, key=lambda end: float(np.abs(end - colour).mean()))
    # If there is no room for a brighter colour, use a darker one, and vice versa.
    room = np.abs(near - colour).mean() > 0.8 * np.abs(far - colour).mean()
    return near if room and rng.random() < 0.5 else far


def grey(brightness: float) -> Colour:
    """Returns a grey."""
    return np.full(3, brightness, np.float32)
