"""Surface normals from a depth map, by planes fitted to inverse depth."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64
from scipy import ndimage

_HALF_SIDES = (7, 21)  # of the square windows, in pixels
# What the sensor cannot tell apart: the step between two of its readings (1/8 pixel of disparity, at a baseline of
# 7.5 cm and 580 pixels of focal length), in 1/m, and the depth error left by calibration and filling, in metres.
_DISPARITY_STEP = 1 / (8 * 0.075 * 580)
_DEPTH_ERROR = 0.01
# Power of the weights: high enough that a window across an edge counts for nothing beside one on the pixel's own side.
_SHARPNESS = 4


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera: focal lengths and principal point, in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float


NYUV2_CAMERA = Camera(fx=518.8579, fy=519.4696, cx=325.5824, cy=253.7362)  # colour camera of the toolbox, 640x480


def normals_from_depth(depth: Float32[np.ndarray, "h w"], camera: Camera) -> Float32[np.ndarray, "h w 3"]:
    r"""Unit normals that point to the camera, in the axes x right, y forward (into the scene), z up.

    On a plane the inverse depth is linear in the picture: with x = (column - cx)/fx and y = (row - cy)/fy,
    1/depth = a x + b y + c, and (a, b, c) is normal to the plane (in camera axes: x right, y down, z forward). So a, b,
    c are fitted by least squares in windows of two sizes around each pixel. A pixel then takes the mean of the fits of
    18 windows that hold it (nine of either size: around it and moved by half a side to all sides), each with the weight

        (information / (variance about the fit + squared residual of the pixel itself + sensor noise))^4

    where the information is what the window tells of a slope, number of pixels times spread. Large windows win on
    plane surfaces; at a crease or an edge the windows on the pixel's own side win, so that edges stay sharp.

    Args:
        depth: in metres, 0 where undefined.
        camera: of the depth map.

    Returns:
        The normals; 0 over all channels where the depth is undefined or too few of its neighbours are defined.
    """
    height, width = depth.shape
    x = np.broadcast_to((np.arange(width) - camera.cx) / camera.fx, depth.shape)
    y = np.broadcast_to(((np.arange(height) - camera.cy) / camera.fy)[:, None], depth.shape)
    defined = depth > 0
    inverse = np.divide(1.0, depth, out=np.zeros(depth.shape), where=defined)
    total = np.zeros((3, height, width), np.float32)
    for half_side in _HALF_SIDES:
        total += _weighted_sum(_fit_planes(x, y, inverse, defined, half_side), x, y, inverse, half_side)
    length = np.linalg.norm(total, axis=0)
    a, b, c = np.divide(total, length, out=np.zeros_like(total), where=defined & (length > 0))
    return np.stack([-a, -c, b], axis=-1)


@dataclasses.dataclass(frozen=True)
class _Fits:
    """The plane fitted in the window around each pixel."""

    planes: Float32[np.ndarray, "3 h w"]
    variance: Float32[np.ndarray, "h w"]
    information: Float32[np.ndarray, "h w"]


def _fit_planes(
    x: Float64[np.ndarray, "h w"],
    y: Float64[np.ndarray, "h w"],
    inverse: Float64[np.ndarray, "h w"],
    defined: Bool[np.ndarray, "h w"],
    half_side: int,
) -> _Fits:
    one = defined.astype(np.float64)
    wx, wy = one * x, one * y
    sums = np.stack(
        [one, wx, wy, wx * x, wx * y, wy * y, inverse, inverse * x, inverse * y, inverse * inverse]
    )  # float64: the spread within a window is a small difference of large sums
    side = 2 * half_side + 1
    for axis in (1, 2):
        sums = ndimage.uniform_filter1d(sums, side, axis=axis, mode="constant")
    fraction = np.maximum(sums[0], 1e-12)
    mx, my, mxx, mxy, myy, ms, mxs, mys, mss = sums[1:] / fraction
    xx, xy, yy = mxx - mx * mx, mxy - mx * my, myy - my * my
    xs, ys, ss = mxs - mx * ms, mys - my * ms, mss - ms * ms
    determinant = xx * yy - xy * xy
    # Fewer than a tenth of the pixels, or pixels along a line, tell no plane.
    solvable = (fraction > 0.1) & (determinant > 1e-3 * (xx + yy) ** 2)
    scale = solvable / np.where(solvable, determinant, 1.0)
    a = (yy * xs - xy * ys) * scale
    b = (xx * ys - xy * xs) * scale
    c = ms - a * mx - b * my
    variance = np.maximum(ss - a * xs - b * ys, 0.0)
    information = fraction * side**2 * determinant * solvable / np.maximum(xx + yy, 1e-12)
    return _Fits(np.stack([a, b, c]).astype(np.float32), variance.astype(np.float32), information.astype(np.float32))


def _weighted_sum(
    fits: _Fits,
    x: Float[np.ndarray, "h w"],
    y: Float[np.ndarray, "h w"],
    inverse: Float[np.ndarray, "h w"],
    half_side: int,
) -> Float32[np.ndarray, "3 h w"]:
    height, width = inverse.shape
    x, y, inverse = x.astype(np.float32), y.astype(np.float32), inverse.astype(np.float32)
    noise = np.float32(_DISPARITY_STEP**2 / 12) + np.float32(_DEPTH_ERROR**2) * inverse**4
    total = np.zeros((3, height, width), np.float32)
    for down in (-half_side, 0, half_side):
        for right in (-half_side, 0, half_side):
            here = np.s_[max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
            there = np.s_[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
            a, b, c = planes = fits.planes[:, *there]
            residual = inverse[here] - a * x[here] - b * y[here] - c
            weight = fits.information[there] / (fits.variance[there] + residual * residual + noise[here])
            total[:, *here] += planes * (np.float32(1e-4) * weight) ** _SHARPNESS
    return total
