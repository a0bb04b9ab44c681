"""Weights of PyTorch networks as variables of ours, and back."""

import collections
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mtan_jax.interop.files import Arrays, WeightsError, read
from mtan_jax.interop.names import Layout, Path
from mtan_jax.weighting.sharing import has_task_axis

_LISTED = 20
_DATA_PARALLEL = "module."  # what PyTorch's wrapper for several devices puts before every name


def load(path: pathlib.Path, template: Mapping[str, Any], layouts: Sequence[Layout]) -> dict[Path, np.ndarray]:
    """`to_variables` of a file (`mtan_jax.interop.files.read`); every message begins with its name."""
    try:
        return to_variables(read(path), template, layouts)
    except WeightsError as error:
        if str(error).startswith(str(path)):
            raise
        raise WeightsError(f"{path}: {error}") from error


def to_variables(arrays: Arrays, template: Mapping[str, Any], layouts: Sequence[Layout]) -> dict[Path, np.ndarray]:
    """Variables of a network from the entries of a PyTorch file.

    Convolutions change their layout from [out, in, h, w] to [h, w, in, out]. Running variances are taken as they are:
    PyTorch's hold the unbiased variance of each batch, ours the biased one, smaller by the factor (n - 1) / n for n
    pixels. Where ours have a row a task and the file one for all (running statistics of networks whose images belong to
    one task each), every task gets a copy.

    Args:
        arrays: the entries, as a state_dict names them.
        template: collections of the network, "params" and "batch_stats", of arrays or of their shapes.
        layouts: kinds of file that would do (`mtan_jax.interop.names.layouts`).

    Returns:
        The network's arrays that the file holds, of the template's types, by (collection, *path).

    Raises:
        WeightsError: for entries that are missing, of another shape, or not known; the message lists them.
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


def to_state_dict(variables: Mapping[str, Any], layout: Layout) -> Arrays:
    """The entries of a PyTorch file from the variables of a network: the way back of `to_variables`.

    `load_state_dict(..., strict=False)` takes them: what the layout ignores (the authors' `logsigma`, torchvision's
    classifier) is not among them.

    Raises:
        WeightsError: the file would hold nothing, or one array of what are several of ours: a backbone a task, or
            running statistics in which tasks differ.
    """
    leaves = traverse_util.flatten_dict({name: variables[name] for name in ("params", "batch_stats")})
    arrays: Arrays = {}
    for path, leaf in leaves.items():
        for name, part in _parts(path, np.asarray(leaf), layout):
            if name in arrays:
                raise WeightsError(f"{layout.title} has one {name} where this network has several, a backbone a task")
            arrays[name] = part
    if not arrays:
        raise WeightsError(f"nothing of it belongs to {layout.title}")
    return arrays


def check_state_dict(variables: Mapping[str, Any], layouts: Sequence[Layout]) -> None:
    """Raises the `WeightsError` that `to_state_dict` with the first layout would; shapes will do for variables."""
    _check_any(layouts)
    shapes = {name: variables[name] for name in ("params", "batch_stats")}
    to_state_dict(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes), layouts[0])


def _check_any(layouts: Sequence[Layout]) -> None:
    if not layouts:
        raise WeightsError("no kind of PyTorch file is known of this architecture on this backbone")


def _entries(leaves: Mapping[Path, Any], layout: Layout) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the entries that a file must have."""
    return {
        name: part.shape
        for path, leaf in leaves.items()
        for name, part in _parts(path, np.broadcast_to(np.float32(0), leaf.shape), layout)
    }


def _parts(path: Path, array: np.ndarray, layout: Layout) -> list[tuple[str, np.ndarray]]:
    """The entries that hold one of our arrays."""
    names = layout.names(path[1:])
    if not names:
        return []
    if has_task_axis(path):
        if (array != array[:1]).any():
            raise WeightsError(
                f"{layout.title} has one {names[0]} for all tasks; this network has one a task "
                f"({'/'.join(path)}), and they differ, as they do after training on several tasks"
            )
        array = array[0]
    array = _to_theirs(path, array)
    if len(names) == 1:
        return [(names[0], array)]
    # The authors keep the cross-stitch weights of the decoder's blocks, one more than the others, apart.
    half = len(array) // 2
    return list(zip(names, (array[:half], array[half:]), strict=True))


def _check(arrays: Arrays, entries: Mapping[str, tuple[int, ...]], layout: Layout, layouts: Sequence[Layout]) -> None:
    if not arrays.keys() & entries.keys():
        titles = " or ".join(layout.title for layout in layouts)
        raise WeightsError(f"nothing in it belongs to {titles}; it has {_list(list(arrays)) or 'no entries'}")
    ignored = [name for name in arrays if name.startswith(layout.ignored) or name.endswith("num_batches_tracked")]
    problems: dict[str, list[str]] = collections.defaultdict(list)
    for name, shape in entries.items():
        if name not in arrays:
            problems["missing"].append(name)
        elif arrays[name].shape != shape:
            problems["of another shape"].append(f"{name} is {list(arrays[name].shape)}, not {list(shape)}")
    problems["no numbers, or not all finite"] = [
        name for name in entries if name in arrays and not _is_finite(arrays[name])
    ]
    problems["not known"] = [name for name in arrays if name not in entries and name not in ignored]
    lines = [f"{len(found)} {problem}: {_list(sorted(found))}" for problem, found in problems.items() if found]
    if lines:
        lines.append("tasks, their order and classes, and the width must be those of the file")
        raise WeightsError("\n  ".join([f"it does not fit this network as {layout.title}:", *lines]))


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
