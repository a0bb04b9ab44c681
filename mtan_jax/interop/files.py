"""Reads and writes named arrays as npz, safetensors or PyTorch files, without executing code from them."""

import pathlib
import types
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from mtan_jax.runtime import mirror

Arrays: TypeAlias = dict[str, np.ndarray]

# Keys under which training programs store the state_dict beside other entries.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


class WeightsError(ValueError):
    """A weights file cannot be read or does not match the network; the message names the file and a remedy."""


def read(path: pathlib.Path) -> Arrays:
    """Reads the arrays of a file by name.

    Args:
        path: a file with the suffix .npz, .safetensors or, if PyTorch is installed, .pt or .pth.

    Raises:
        WeightsError: the suffix is unknown, the file is missing or of another format, or a PyTorch file contains
            anything but tensors, numbers and containers of them.
    """
    reader, _ = _functions(path)
    if not path.is_file():
        raise WeightsError(f"{path} does not exist")
    try:
        return reader(path)
    except WeightsError:
        raise
    except Exception as error:  # the libraries raise many types
        kind = "a PyTorch file that contains only tensors" if reader is _read_torch else f"a {path.suffix[1:]} file"
        advice = "; save it with torch.save(network.state_dict(), FILE)" if reader is _read_torch else ""
        raise WeightsError(f"{path} cannot be read as {kind} ({type(error).__name__}){advice}") from error


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays atomically, in the format given by the suffix of the path.

    Types that NumPy lacks (bfloat16) are written as float32.

    Raises:
        WeightsError: the suffix is unknown.
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
    """Path of a weights file to read or write, checked before it is needed.

    Args:
        text: the value of a flag or field.
        name: the name of the flag or field, for messages.

    Raises:
        WeightsError: the suffix is unknown, or the format needs PyTorch and it is not installed.
        PathError: the path is empty or has an unknown scheme.
    """
    path = mirror.local(text, name)
    _functions(path)
    if path.suffix in (".pt", ".pth"):
        _torch(path)
    return path


def _functions(path: pathlib.Path) -> tuple["Reader", "Writer"]:
    if path.suffix not in _FORMATS:
        raise WeightsError(f"{path}: expected a file name that ends in one of {', '.join(_FORMATS)}")
    return _FORMATS[path.suffix]


def _known_to_numpy(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _read_npz(path: pathlib.Path) -> Arrays:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_safetensors(path: pathlib.Path) -> Arrays:
    import safetensors.numpy

    return {name: _known_to_numpy(array) for name, array in safetensors.numpy.load_file(path).items()}


def _read_torch(path: pathlib.Path) -> Arrays:
    torch = _torch(path)
    found = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise WeightsError(f"{path} contains no state_dict; save it with torch.save(network.state_dict(), FILE)")
    wide = {torch.bfloat16: torch.float32}  # a type that NumPy lacks
    return {str(name): value.detach().to(wide.get(value.dtype, value.dtype)).numpy() for name, value in found.items()}


def _write_torch(path: pathlib.Path, arrays: Arrays) -> None:
    torch = _torch(path)
    torch.save({name: torch.tensor(array) for name, array in arrays.items()}, path)


def _write_npz(path: pathlib.Path, arrays: Arrays) -> None:
    with path.open("wb") as file:  # given a path, NumPy would append a suffix
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _write_safetensors(path: pathlib.Path, arrays: Arrays) -> None:
    import safetensors.numpy

    path.write_bytes(safetensors.numpy.save(arrays))  # `save_file` makes the file unreadable for other users


def _torch(path: pathlib.Path) -> types.ModuleType:
    try:
        import torch  # an optional dependency
    except ImportError:
        raise WeightsError(
            f"{path}: this format needs PyTorch, which is not installed. Run pip install 'mtan_jax[torch]', or use "
            "a .npz or .safetensors file"
        ) from None
    return torch


Reader: TypeAlias = Callable[[pathlib.Path], Arrays]
Writer: TypeAlias = Callable[[pathlib.Path, Arrays], None]

_FORMATS: dict[str, tuple[Reader, Writer]] = {
    ".npz": (_read_npz, _write_npz),
    ".safetensors": (_read_safetensors, _write_safetensors),
    ".pt": (_read_torch, _write_torch),
    ".pth": (_read_torch, _write_torch),
}
