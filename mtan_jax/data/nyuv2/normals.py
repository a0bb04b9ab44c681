"""Computes surface normals from a depth map by fitting planes to the inverse depth."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from mtan_jax.data.raw.resize import Pixels

_HALF_SIDES = (7, 21)  # of the square windows, in pixels
# The sensor's resolution: the step between two readings (1/8 pixel of disparity, at a baseline of 7.5 cm and a focal
# length of 580 pixels), in 1/m, and the depth error left by calibration and hole filling, in metres.
_DISPARITY_STEP = 1 / (8 * 0.075 * 580)
_DEPTH_ERROR = 0.01
_STRIP = 16  # rows processed at a time, so that the working set fits into a core's cache


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera: focal lengths and principal point, in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float


NYUV2_CAMERA = Camera(fx=518.8579, fy=519.4696, cx=325.5824, cy=253.7362)  # the toolbox's colour camera, 640x480


def normals_from_depth(
    depth: Float32[np.ndarray, "h w"], camera: Camera, pixels: Pixels | None = None
) -> Float32[np.ndarray, "r c 3"]:
    r"""Computes unit normals that point towards the camera, in the axes x right, y forward (into the scene), z up.

    On a plane the inverse depth is linear in the image coordinates: with x = (column - cx)/fx and y = (row - cy)/fy,
    1/depth = a x + b y + c, and (a, b, c) is normal to the plane (in camera axes: x right, y down, z forward). The
    coefficients are fitted by least squares in windows of two sizes around each pixel. The normal of a pixel is the
    weighted mean of the fits of 18 windows that contain it: for each size, the window around the pixel and eight
    shifted by half a side. Each fit has the weight

        (information / (variance about the fit + squared residual of the pixel itself + sensor noise))^4

    where the information is the number of pixels in the window times their spread. Large windows dominate on flat
    surfaces. At a crease or an edge, windows on the pixel's own side dominate, which keeps edges sharp.

    Args:
        depth: in metres, 0 where undefined.
        camera: the camera of the depth map.
        pixels: pixels to compute normals at, using the depth of all pixels; None is everywhere.

    Returns:
        The normals; 0 in all channels where the depth is undefined or too few neighbours are defined.
    """
    height, width = depth.shape
    if pixels is None:
        pixels = Pixels(np.arange(height), np.arange(width))
    defined = depth > 0
    complete = bool(defined.all())
    inverse = np.divide(1.0, depth, out=np.zeros(depth.shape), where=defined)
    total = np.zeros((3, len(pixels.rows), len(pixels.columns)), np.float32)
    for half_side in _HALF_SIDES:
        if complete:
            windows = _complete_windows(depth.shape, camera, half_side)
        else:
            windows = _windows(defined, camera, half_side)
        _add_weighted_planes(total, _fit_planes(windows, inverse), camera, inverse, pixels, half_side)
    length = np.sqrt(np.square(total).sum(axis=0))
    here = defined[pixels.rows[:, None], pixels.columns] & (length > 0)
    a, b, c = np.divide(total, length, out=np.zeros_like(total), where=here)
    return np.stack([-a, -c, b], axis=-1)


class _Windows(NamedTuple):
    """Statistics of the window around each pixel that only depend on the camera and on which pixels are defined.

    Attributes:
        half_side: half the side of the windows in pixels.
        x, y: coordinates of the pixels.
        fraction: share of the window's pixels that are defined.
        mean_x, mean_y: mean coordinates over the window's defined pixels.
        xx, xy, yy: covariances of the coordinates over the window's defined pixels.
        scale: inverse of the determinant of the covariance, 0 where the pixels do not determine a plane.
        information: number of pixels times their spread.
    """

    half_side: int
    x: Float64[np.ndarray, "w"]
    y: Float64[np.ndarray, "h 1"]
    fraction: Float64[np.ndarray, "h w"]
    mean_x: Float64[np.ndarray, "h w"]
    mean_y: Float64[np.ndarray, "h w"]
    xx: Float64[np.ndarray, "h w"]
    xy: Float64[np.ndarray, "h w"]
    yy: Float64[np.ndarray, "h w"]
    scale: Float64[np.ndarray, "h w"]
    information: Float32[np.ndarray, "h w"]


@functools.lru_cache(maxsize=4)
def _complete_windows(shape: tuple[int, int], camera: Camera, half_side: int) -> _Windows:
    """Returns the windows of a depth map without holes. All frames of NYUv2 share them."""
    return _windows(np.ones(shape, np.bool_), camera, half_side)


def _windows(defined: Bool[np.ndarray, "h w"], camera: Camera, half_side: int) -> _Windows:
    x, y = _coordinates(defined.shape, camera)
    one = defined.astype(np.float64)
    sums = _window_means(one, x, y, half_side)
    fraction = np.maximum(sums[0], 1e-12)
    mean_x, mean_y, mxx, mxy, myy = sums[1:] / fraction
    xx, xy, yy = mxx - mean_x * mean_x, mxy - mean_x * mean_y, myy - mean_y * mean_y
    determinant = xx * yy - xy * xy
    # Less than a tenth of the pixels, or pixels along a line, do not determine a plane.
    solvable = (fraction > 0.1) & (determinant > 1e-3 * (xx + yy) ** 2)
    scale = solvable / np.where(solvable, determinant, 1.0)
    information = fraction * (2 * half_side + 1) ** 2 * determinant * solvable / np.maximum(xx + yy, 1e-12)
    moments = (fraction, mean_x, mean_y, xx, xy, yy, scale)
    return _Windows(half_side, x, y, *moments, information.astype(np.float32))


def _coordinates(shape: tuple[int, int], camera: Camera) -> tuple[Float64[np.ndarray, "w"], Float64[np.ndarray, "h 1"]]:
    height, width = shape
    return (np.arange(width) - camera.cx) / camera.fx, ((np.arange(height) - camera.cy) / camera.fy)[:, None]


def _window_means(
    one: Float64[np.ndarray, "h w"], x: Float64[np.ndarray, "w"], y: Float64[np.ndarray, "h 1"], half_side: int
) -> Float64[np.ndarray, "6 h w"]:
    """Returns the window means of 1, x, y, x^2, xy and y^2 over defined pixels; 0 outside the image."""
    return _mean_over_windows(np.stack([one, one * x, one * y, one * x * x, one * x * y, one * y * y]), half_side)


def _mean_over_windows(arrays: Float64[np.ndarray, "n h w"], half_side: int) -> Float64[np.ndarray, "n h w"]:
    from scipy import ndimage

    # In float64, because the spread within a window is a small difference of large sums.
    for axis in (1, 2):
        arrays = ndimage.uniform_filter1d(arrays, 2 * half_side + 1, axis=axis, mode="constant")
    return arrays


def _fit_planes(windows: _Windows, inverse: Float64[np.ndarray, "h w"]) -> Float32[np.ndarray, "5 h w"]:
    """Returns for each window the fitted plane a, b, c, the variance about it, and the information."""
    w = windows
    means = _mean_over_windows(np.stack([inverse, inverse * w.x, inverse * w.y, inverse * inverse]), w.half_side)
    fits = np.empty((5, *inverse.shape), np.float32)
    for start in range(0, len(inverse), _STRIP):
        rows = np.s_[start : start + _STRIP]
        ms, mxs, mys, mss = means[:, rows] / w.fraction[rows]
        mean_x, mean_y, xx, xy, yy = (moment[rows] for moment in (w.mean_x, w.mean_y, w.xx, w.xy, w.yy))
        xs, ys, ss = mxs - mean_x * ms, mys - mean_y * ms, mss - ms * ms
        a = (yy * xs - xy * ys) * w.scale[rows]
        b = (xx * ys - xy * xs) * w.scale[rows]
        fits[:, rows] = a, b, ms - a * mean_x - b * mean_y, np.maximum(ss - a * xs - b * ys, 0), w.information[rows]
    return fits


def _add_weighted_planes(
    total: Float32[np.ndarray, "3 r c"],
    fits: Float32[np.ndarray, "5 h w"],
    camera: Camera,
    inverse: Float64[np.ndarray, "h w"],
    pixels: Pixels,
    half_side: int,
) -> None:
    """Adds to `total` the weighted planes of the nine windows that contain each pixel."""
    height, width = inverse.shape
    x, y = (coordinate.astype(np.float32) for coordinate in _coordinates(inverse.shape, camera))
    x, y = x[pixels.columns], y[pixels.rows]
    own = inverse[pixels.rows[:, None], pixels.columns].astype(np.float32)
    noise = np.float32(_DISPARITY_STEP**2 / 12) + np.float32(_DEPTH_ERROR**2) * (own * own) ** 2
    for down in (-half_side, 0, half_side):
        rows = _inside(pixels.rows + down, height)
        fits_of_rows = fits.take(pixels.rows[rows] + down, axis=1)
        for right in (-half_side, 0, half_side):
            columns = _inside(pixels.columns + right, width)
            here = np.s_[rows, columns]
            a, b, c, variance, information = fits_of_rows.take(pixels.columns[columns] + right, axis=2)
            residual = own[here] - a * x[columns] - b * y[rows] - c
            weight = np.float32(1e-4) * information / (variance + residual * residual + noise[here])
            # The fourth power makes a window across an edge negligible beside one on the pixel's own side.
            weight *= weight
            weight *= weight
            for plane, part in zip((a, b, c), total, strict=True):
                part[here] += plane * weight


def _inside(positions: Int[np.ndarray, "n"], size: int) -> slice:
    """Returns the slice of the ascending positions that are in 0 <= position < size."""
    return slice(*np.searchsorted(positions, (0, size)).tolist())
