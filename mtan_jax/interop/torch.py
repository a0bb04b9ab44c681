"""Converts between PyTorch state_dicts and variables of our networks."""

import collections
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from mtan_jax.interop.files import Arrays, WeightsError, read
from mtan_jax.interop.names import Layout
from mtan_jax.types import ArrayLike, Path, Shape
from mtan_jax.weighting.sharing import has_task_axis

_LISTED = 20
_DATA_PARALLEL = "module."  # prefix that DataParallel adds to every name


def load(path: pathlib.Path, template: Mapping[str, PyTree], layouts: Sequence[Layout]) -> dict[Path, np.ndarray]:
    """Reads a file and converts it with `to_variables`; error messages begin with the path of the file."""
    try:
        return to_variables(read(path), template, layouts)
    except WeightsError as error:
        if str(error).startswith(str(path)):
            raise
        raise WeightsError(f"{path}: {error}") from error


def to_variables(arrays: Arrays, template: Mapping[str, PyTree], layouts: Sequence[Layout]) -> dict[Path, np.ndarray]:
    """Converts the entries of a PyTorch file to variables of a network.

    Convolution kernels are transposed from [out, in, h, w] to [h, w, in, out]. Running variances are copied unchanged,
    although PyTorch averages the unbiased variance of each batch and our networks the biased one, which is smaller by
    the factor (n - 1) / n for n pixels. If our array has one row per task and the file one for all tasks (running
    statistics of networks for images of single tasks), each task gets a copy.

    Args:
        arrays: the entries by their names in the state_dict.
        template: the collections "params" and "batch_stats" of the network, as arrays or shapes.
        layouts: the accepted layouts (`mtan_jax.interop.names.layouts`).

    Returns:
        The network's arrays that the file contains, with the dtypes of the template, by (collection, *path).

    Raises:
        WeightsError: entries are missing, unknown, of another shape or not finite; the message lists them.
    """
    _check_any(layouts)
    arrays = {name.removeprefix(_DATA_PARALLEL): array for name, array in arrays.items()}
    leaves = {path: leaf for path, leaf in traverse_util.flatten_dict(dict(template)).items() if path[0] != "masks"}
    layout = max(layouts, key=lambda layout: len(arrays.keys() & _entries(leaves, layout).keys()))
    _check(arrays, _entries(leaves, layout), layout, layouts)
    held = {path: (leaf, layout.names(path[1:])) for path, leaf in leaves.items() if layout.names(path[1:])}
    return {
        path: _to_ours(path, np.concatenate([arrays[name] for name in names]), leaf.shape).astype(leaf.dtype)
        for path, (leaf, names) in held.items()
    }


def to_state_dict(variables: Mapping[str, PyTree], layout: Layout) -> Arrays:
    """Converts variables of a network to the entries of a PyTorch file; the inverse of `to_variables`.

    Load them with `load_state_dict(..., strict=False)`: entries that the layout ignores (the authors' `logsigma`,
    torchvision's classifier) are missing.

    Raises:
        WeightsError: no variable belongs to the layout, or several variables map to one entry, as those of one
            backbone per task or running statistics that differ between tasks do.
    """
    leaves = traverse_util.flatten_dict({name: variables[name] for name in ("params", "batch_stats")})
    arrays: Arrays = {}
    for path, leaf in leaves.items():
        for name, part in _parts(path, np.asarray(leaf), layout):
            if name in arrays:
                raise WeightsError(
                    f"{layout.title} has one {name}, but this network has several (one backbone per task)"
                )
            arrays[name] = part
    if not arrays:
        raise WeightsError(f"none of its variables belong to {layout.title}")
    return arrays


def check_state_dict(variables: Mapping[str, PyTree], layouts: Sequence[Layout]) -> None:
    """Raises a `WeightsError` if `to_state_dict` would fail with the first layout; accepts shapes as variables."""
    _check_any(layouts)
    shapes = {name: variables[name] for name in ("params", "batch_stats")}
    to_state_dict(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes), layouts[0])


def _check_any(layouts: Sequence[Layout]) -> None:
    if not layouts:
        raise WeightsError("no PyTorch layout is known for this architecture with this backbone")


def _entries(leaves: Mapping[Path, ArrayLike | Shape], layout: Layout) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the entries that a file must contain."""
    return {
        name: part.shape
        for path, leaf in leaves.items()
        for name, part in _parts(path, np.broadcast_to(np.float32(0), leaf.shape), layout)
    }


def _parts(path: Path, array: np.ndarray, layout: Layout) -> list[tuple[str, np.ndarray]]:
    """The entries that contain one of our arrays."""
    names = layout.names(path[1:])
    if not names:
        return []
    if has_task_axis(path):
        if (array != array[:1]).any():
            raise WeightsError(
                f"{layout.title} has one {names[0]} for all tasks, but this network has one per task "
                f"({'/'.join(path)}) and they differ, as they do after training on several tasks"
            )
        array = array[0]
    array = _to_theirs(path, array)
    if len(names) == 1:
        return [(names[0], array)]
    # The authors store the cross-stitch weights of encoder and decoder separately.
    half = len(array) // 2
    return list(zip(names, (array[:half], array[half:]), strict=True))


def _check(arrays: Arrays, entries: Mapping[str, tuple[int, ...]], layout: Layout, layouts: Sequence[Layout]) -> None:
    if not arrays.keys() & entries.keys():
        titles = " or ".join(layout.title for layout in layouts)
        raise WeightsError(f"expected entries of {titles}; found {_list(list(arrays)) or 'no entries'}")
    ignored = [name for name in arrays if name.startswith(layout.ignored) or name.endswith("num_batches_tracked")]
    problems: dict[str, list[str]] = collections.defaultdict(list)
    for name, shape in entries.items():
        if name not in arrays:
            problems["missing"].append(name)
        elif arrays[name].shape != shape:
            problems["of another shape"].append(f"{name} is {list(arrays[name].shape)}, not {list(shape)}")
    problems["not numeric or not finite"] = [
        name for name in entries if name in arrays and not _is_finite(arrays[name])
    ]
    problems["unknown"] = [name for name in arrays if name not in entries and name not in ignored]
    lines = [f"{len(found)} {problem}: {_list(sorted(found))}" for problem, found in problems.items() if found]
    if lines:
        lines.append("use the tasks, their order, the classes and the width of the file")
        raise WeightsError("\n  ".join([f"the file does not match this network as {layout.title}:", *lines]))


def _is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and bool(np.isfinite(array).all())


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _to_ours(path: Path, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if has_task_axis(path):
        return np.broadcast_to(array, shape)
    if path[-1] != "kernel":
        return array
    return array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)


def _to_theirs(path: Path, array: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return array
    return array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
