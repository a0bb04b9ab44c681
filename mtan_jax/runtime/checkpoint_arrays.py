"""Reads the arrays of a checkpoint and verifies them."""

import pathlib

import jax
import numpy as np
from jaxtyping import PyTree

from mtan_jax.runtime import orbax_compat


def read_arrays(path: pathlib.Path, template: PyTree = None) -> PyTree[np.ndarray]:
    """Reads the arrays of a checkpoint and verifies their checksum.

    Args:
        path: absolute path of the checkpoint.
        template: nested dictionaries of arrays or shapes with the structure of the checkpoint; None accepts any.

    Returns:
        Nested dictionaries of NumPy arrays.

    Raises:
        ValueError: the checksum is missing or does not match. orbax raises further types.
    """
    # np.zeros allocates lazily, so this template costs no memory.
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
    arrays, metadata = orbax_compat.read(path, zeros)
    if "crc32" not in metadata:
        raise ValueError("its checksum is missing")
    if metadata["crc32"] != orbax_compat.checksum(arrays):
        raise ValueError("its checksum does not match its arrays")
    return arrays


def check_shapes(found: PyTree, expected: PyTree) -> None:
    """Raises a ValueError that names the first array with an unexpected shape or dtype."""
    for (path, array), wanted in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        if (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"{name} is {array.dtype}{array.shape}, not {wanted.dtype}{wanted.shape}")
