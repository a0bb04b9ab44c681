"""Procedural textures: functions of surface coordinates that return reflectance."""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, "n"]
Colours = Float[np.ndarray, "3 n"]  # channels first, because NumPy is slow on a last axis of 3
# The arguments of a texture are the two surface coordinates and the size of a sample, in metres.
Texture = Callable[[Values, Values, Values], Colours]

_SIZE = 512


@functools.cache
def _table(exponent: float) -> Float[np.ndarray, "512 512"]:
    """Returns periodic noise with amplitude spectrum f ** -exponent, mean 0 and standard deviation 1."""
    rng = np.random.default_rng([20190615, int(exponent * 1000)])
    frequency = np.fft.fftfreq(_SIZE) * _SIZE
    radius = np.hypot(frequency[:, None], frequency[None, : _SIZE // 2 + 1])
    radius[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((_SIZE, _SIZE))) * radius**-exponent)
    return (noise / noise.std()).astype(np.float32)


def noise(u: Values, v: Values, period: float, exponent: float = 1.2) -> Values:
    """Returns noise with structure at all scales down to `period / 512` metres and standard deviation 1."""
    scale = np.float32(_SIZE / period)
    column = (u * scale).astype(np.int32) & (_SIZE - 1)
    row = (v * scale).astype(np.int32) & (_SIZE - 1)
    return _table(exponent).ravel()[row * _SIZE + column]


def cell_random(column: Values, row: Values, salt: int) -> Values:
    """Returns a hash in 0..1 of each grid cell."""
    mixed = column.astype(np.int64) * 73856093 ^ row.astype(np.int64) * 19349663 ^ salt * 83492791
    mixed = (mixed ^ (mixed >> 13)) * 1274126177 & 0x7FFFFFFF
    return ((mixed ^ (mixed >> 16)) & 0xFFFF).astype(np.float32) / 65535


def detail(footprint: Values, size: float) -> Values:
    """Returns the contrast of a pattern of `size` metres at a sample size of `footprint` metres: 1 near, 0 far."""
    return np.clip(size / footprint - 0.5, 0, 1)


def rough(colour: Float[np.ndarray, "3"], amount: float = 0.08, period: float = 6.0, exponent: float = 1.0) -> Texture:
    """Returns a texture of one colour with noise in its brightness."""
    base = np.asarray(colour, np.float32)[:, None]

    def texture(u: Values, v: Values, footprint: Values) -> Colours:
        del footprint
        return base * (1 + amount * noise(u, v, period, exponent))

    return texture


def leaves(rng: np.random.Generator, colour: Float[np.ndarray, "3"]) -> Texture:
    """Returns a foliage texture with dark gaps and light leaves."""
    base = np.asarray(colour, np.float32)[:, None]
    period, contrast, shift = rng.uniform(2.5, 6), rng.uniform(0.25, 0.45), rng.uniform(0, 50)

    def texture(u: Values, v: Values, footprint: Values) -> Colours:
        del footprint
        tone = np.exp(contrast * noise(u + shift, v, period, 0.75))
        return base * np.clip(tone, 0.25, 2.2)

    return texture


def striped(first: Float[np.ndarray, "3"], second: Float[np.ndarray, "3"], pitch: float, share: float = 0.5) -> Texture:
    """Returns stripes along u (planks, tiles, pales) with the second colour on the fraction `share` of each `pitch`."""
    start, step = (np.asarray(x, np.float32)[:, None] for x in (first, np.subtract(second, first)))

    def texture(u: Values, v: Values, footprint: Values) -> Colours:
        part = np.where((u / pitch) % 1 < share, np.float32(1), np.float32(0))
        part = share + (part - share) * detail(footprint, pitch)
        return (start + step * part.astype(np.float32)) * (1 + 0.06 * noise(u, v, 4.0))

    return texture


def facade(rng: np.random.Generator, colour: Float[np.ndarray, "3"], width: float, height: float) -> Texture:
    """Returns a house front of `width` x `height` metres with windows, ledges, a ground floor, bricks or plaster."""
    floors = max(1, round(height / rng.uniform(2.8, 3.7)))
    columns = max(1, round(width / rng.uniform(1.6, 3.4)))
    storey, bay = height / floors, width / columns
    half_width, half_height = rng.uniform(0.2, 0.42), rng.uniform(0.24, 0.4)
    wall = np.asarray(colour, np.float32)[:, None]
    frame = np.clip(wall * rng.uniform(0.5, 1.7), 0.02, 0.9).astype(np.float32)
    glass = (rng.uniform(0.03, 0.16) * np.array([[0.85], [1.0], [rng.uniform(1.0, 1.4)]])).astype(np.float32)
    shop = rng.random() < 0.45
    shop_colour = rng.uniform(0.05, 0.6, (3, 1)).astype(np.float32)
    grid = 0.075 if rng.random() < 0.4 else 0.0
    ledge, salt, shift = rng.random() < 0.5, int(rng.integers(1 << 30)), rng.uniform(0, 99)

    def texture(u: Values, v: Values, footprint: Values) -> Colours:
        column, row = np.floor(u / bay), np.floor(v / storey)
        across, along = np.abs(u / bay - column - 0.5), np.abs(v / storey - row - 0.5)
        colours = wall * (1 + 0.07 * noise(u + shift, v, 9.0))
        if grid:
            joint = ((v / grid) % 1 < 0.2) | (((u / (3 * grid)) + 0.5 * np.floor(v / grid)) % 1 < 0.07)
            colours *= 1 - 0.25 * joint * detail(footprint, grid)
        ground = row < 1
        if shop:
            colours[:, ground] = shop_colour * (1 + 0.05 * noise(u[ground], v[ground], 5.0))
        wide = np.where(ground & shop, 0.44, half_width)
        tall = np.where(ground & shop, 0.36, half_height)
        framed = (across < wide + 0.05) & (along < tall + 0.04)
        colours[:, framed] = frame
        pane = (across < wide) & (along < tall)
        tone = cell_random(column[pane], row[pane], salt)
        bright = np.where(tone > 0.86, 5.0, 0.4 + 1.4 * tone)
        colours[:, pane] = glass * (bright * (0.75 + 0.5 * (v[pane] / storey % 1))).astype(np.float32)
        if ledge:
            colours[:, (v / storey % 1 < 0.06) & ~framed] = frame
        return colours

    return texture
