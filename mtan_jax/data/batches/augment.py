"""The MTAN authors' augmentation: a random crop resized to the full size, and a horizontal flip."""

import numpy as np
from jaxtyping import Float, Shaped

from mtan_jax.data.batches.examples import Example

SCALES = (1.0, 1.2, 1.5)


def augment(example: Example, rng: np.random.Generator, *, inverse_depth: bool) -> Example:
    """Zooms by a random scale from `SCALES` at a uniformly random position, then flips with probability 1/2.

    Args:
        example: as in `mtan_jax.data.batches.examples`; not modified.
        rng: source of all randomness.
        inverse_depth: whether the target "depth" is an inverse depth.

    Returns:
        A new example with the same shapes and dtypes.
    """
    height, width = example["image"].shape[:2]
    scale = float(rng.choice(SCALES))
    crop = int(height / scale), int(width / scale)
    top = int(rng.integers(height - crop[0], endpoint=True))
    left = int(rng.integers(width - crop[1], endpoint=True))
    if scale != 1:
        example = zoom(example, scale, top, left, inverse_depth=inverse_depth)
    return flip(example) if rng.random() < 0.5 else example


def zoom(example: Example, scale: float, top: int, left: int, *, inverse_depth: bool) -> Example:
    """Crops h/scale x w/scale pixels and resizes them to h x w.

    Image and normals are interpolated bilinearly; class maps, depth and other targets use the nearest pixel. A surface
    that appears s times larger is s times nearer: depth is divided by `scale` (the authors' rule for NYUv2) and inverse
    depth is multiplied by it. Interpolated normals are not renormalized, as in the authors' code. Unlike there, a
    normal is undefined (all 0) if any pixel with nonzero weight is undefined; the authors blend the zeros into it.

    Args:
        example: not modified.
        scale: at least 1.
        top: first row of the crop.
        left: first column of the crop.
        inverse_depth: as in `augment`.
    """
    height, width = example["image"].shape[:2]
    size = (height, width)
    rows, columns = slice(top, top + int(height / scale)), slice(left, left + int(width / scale))
    targets = {}
    for name, target in example["targets"].items():
        crop = target[rows, columns]
        if name == "normal":
            targets[name] = _resize_normals(crop, size)
        elif name == "depth":
            resized, factor = resize_nearest(crop, size), np.float32(scale)
            targets[name] = resized * factor if inverse_depth else resized / factor
        else:
            targets[name] = resize_nearest(crop, size)
    return {**example, "image": resize_bilinear(example["image"][rows, columns], size), "targets": targets}


def flip(example: Example) -> Example:
    """Flips horizontally; the x component of normals changes its sign."""
    targets = {name: target[:, ::-1] for name, target in example["targets"].items()}
    if "normal" in targets:
        targets["normal"] = targets["normal"] * np.array([-1, 1, 1], np.float32)
    return {**example, "image": example["image"][:, ::-1], "targets": targets}


def resize_bilinear(array: Float[np.ndarray, "h w c"], size: tuple[int, int]) -> Float[np.ndarray, "h2 w2 c"]:
    """Resizes to `size` with aligned corners (`align_corners=True` in PyTorch)."""
    return _interpolate(_interpolate(array, size[1], axis=1), size[0], axis=0)


def resize_nearest(array: Shaped[np.ndarray, "h w *c"], size: tuple[int, int]) -> Shaped[np.ndarray, "h2 w2 *c"]:
    """Resizes to `size`; output pixel i of n is input pixel floor(i * m / n) of m ("nearest" in PyTorch)."""
    rows, columns = (np.arange(out) * length // out for out, length in zip(size, array.shape[:2], strict=True))
    return array[rows].take(columns, axis=1)


def _resize_normals(normals: Float[np.ndarray, "h w 3"], size: tuple[int, int]) -> Float[np.ndarray, "h2 w2 3"]:
    resized = resize_bilinear(normals, size)
    x, y, z = np.moveaxis(normals, -1, 0) != 0
    defined = x | y | z  # much faster than any(axis=-1)
    if not defined.all():
        # Exactly 1 where all pixels with nonzero weight are defined: interpolating equal values does not round.
        resized *= resize_bilinear(defined[..., None].astype(np.float32), size) == 1
    return resized


def _interpolate(array: Float[np.ndarray, "h w c"], length: int, axis: int) -> Float[np.ndarray, "h2 w2 c"]:
    last = array.shape[axis] - 1
    position = np.linspace(0, last, length)
    below = np.minimum(position.astype(int), max(last - 1, 0))
    weight = (position - below).astype(array.dtype).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    low = array.take(below, axis=axis)
    difference = array.take(np.minimum(below + 1, last), axis=axis)
    difference -= low
    difference *= weight
    return np.add(low, difference, out=low)
