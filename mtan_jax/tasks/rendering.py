"""Renders predictions and targets of dense tasks as RGB pictures."""

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from mtan_jax.data.builder import DataInfo

UNDEFINED_GREY = 128


def class_picture(
    array: Shaped[np.ndarray, "h w ..."], data_info: DataInfo, target: np.ndarray | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Renders a class map [h, w], or the most likely class of log-probabilities [h, w, c]. Void is black."""
    del target
    classes = array.argmax(axis=-1) if array.ndim == 3 else array
    colours = np.concatenate([data_info.palette, np.zeros((1, 3), np.uint8)])  # index -1 is the last one
    return colours[classes]


def depth_picture(
    array: Float[np.ndarray, "h w 1"], data_info: DataInfo, target: Float[np.ndarray, "h w 1"] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Renders depth, near in bright colours. Undefined pixels (0 or not finite) are grey.

    The colours span the range of the target, so that prediction and target are comparable, or of the array without one.
    """
    import matplotlib as mpl  # takes seconds

    depth = array[..., 0]
    defined = np.isfinite(depth) & (depth != 0)
    low, high = depth_span(array if target is None else target)
    position = (np.where(defined, depth, low) - low) / max(high - low, 1e-12)
    picture = mpl.colormaps[depth_colours(data_info)](np.clip(position, 0, 1), bytes=True)[..., :3]
    return np.where(defined[..., None], picture, np.uint8(UNDEFINED_GREY))


def depth_span(array: Float[np.ndarray, "h w 1"]) -> tuple[float, float]:
    """Lowest and highest defined value, which the colours of `depth_picture` span; (0, 1) if none is defined."""
    values = array[np.isfinite(array) & (array != 0)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)


def depth_colours(data_info: DataInfo) -> str:
    """Name of the colour map that shows near pixels in bright colours."""
    return "magma" if data_info.inverse_depth else "magma_r"


def normal_picture(
    array: Float[np.ndarray, "h w 3"], data_info: DataInfo, target: np.ndarray | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Renders normals as (n + 1) / 2. Undefined pixels (all channels 0) are grey."""
    del data_info, target
    return np.round((np.clip(np.nan_to_num(array), -1, 1) + 1) * 127.5).astype(np.uint8)
