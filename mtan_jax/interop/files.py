"""Named arrays in files: NumPy's npz, safetensors, and PyTorch's own. Nothing in a file is ever executed."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from mtan_jax.runtime import paths

Arrays = dict[str, np.ndarray]

# Under one of these keys, training programs keep the state_dict among other things.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


class WeightsError(ValueError):
    """A file of weights cannot be read or does not fit the network; the message names it and what would do."""


def read(path: pathlib.Path) -> Arrays:
    """Reads the arrays of a file, by name.

    Args:
        path: ends in .npz, .safetensors, or (where PyTorch is installed) .pt or .pth.

    Raises:
        WeightsError: for another ending, a file that is not there or not what its ending says, or, in a PyTorch file,
            anything but tensors, numbers and containers of them.
    """
    reader, _ = _functions(path)
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    try:
        return reader(path)
    except WeightsError:
        raise
    except Exception as error:  # the three libraries raise errors of many kinds
        kind = "a PyTorch file of tensors alone" if reader is _read_torch else f"a {path.suffix[1:]} file"
        advice = "; write it with torch.save(network.state_dict(), FILE)" if reader is _read_torch else ""
        raise WeightsError(f"{path} cannot be read as {kind} ({type(error).__name__}){advice}") from error


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name, in the format that the file's ending says; the file is there whole or not at all.

    Types that NumPy itself lacks (bfloat16) are written as float32.

    Raises:
        WeightsError: for an ending that is not known.
    """
    _, writer = _functions(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    try:
        writer(partial, {name: np.ascontiguousarray(_known_to_numpy(array)) for name, array in arrays.items()})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def checked_path(text: str, name: str) -> pathlib.Path:
    """The path of a file to read or write, in a flag or a field of this name; see `mtan_jax.runtime.paths.local`.

    Raises:
        WeightsError: its ending is not known, or it needs PyTorch where there is none.
        PathError: it is no local path.
    """
    path = paths.local(text, name)
    _functions(path)
    if path.suffix in (".pt", ".pth"):
        _torch(path)
    return path


def _functions(path: pathlib.Path) -> tuple[Callable[..., Arrays], Callable[..., Any]]:
    if path.suffix not in _FORMATS:
        raise WeightsError(f"{path}: the file's name must end in {', '.join(_FORMATS)}")
    return _FORMATS[path.suffix]


def _known_to_numpy(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _read_npz(path: pathlib.Path) -> Arrays:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_safetensors(path: pathlib.Path) -> Arrays:
    return {name: _known_to_numpy(array) for name, array in safetensors.numpy.load_file(path).items()}


def _read_torch(path: pathlib.Path) -> Arrays:
    torch = _torch(path)
    found = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise WeightsError(f"{path} holds no state_dict; write it with torch.save(network.state_dict(), FILE)")
    wide = {torch.bfloat16: torch.float32}  # a type that NumPy lacks
    return {str(name): value.detach().to(wide.get(value.dtype, value.dtype)).numpy() for name, value in found.items()}


def _write_torch(path: pathlib.Path, arrays: Arrays) -> None:
    torch = _torch(path)
    torch.save({name: torch.tensor(array) for name, array in arrays.items()}, path)


def _write_npz(path: pathlib.Path, arrays: Arrays) -> None:
    with path.open("wb") as file:  # given a name, NumPy would add an ending to it
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _write_safetensors(path: pathlib.Path, arrays: Arrays) -> None:
    path.write_bytes(safetensors.numpy.save(arrays))  # `save_file` would let nobody else read it


def _torch(path: pathlib.Path) -> Any:
    try:
        import torch  # an extra: nothing else here needs it
    except ImportError:
        raise WeightsError(
            f"{path}: this format needs PyTorch, which is not installed: pip install 'mtan_jax[torch]'. Files that end "
            "in .npz or .safetensors need none"
        ) from None
    return torch


_FORMATS: dict[str, tuple[Callable[..., Arrays], Callable[..., Any]]] = {
    ".npz": (_read_npz, _write_npz),
    ".safetensors": (_read_safetensors, _write_safetensors),
    ".pt": (_read_torch, _write_torch),
    ".pth": (_read_torch, _write_torch),
}
