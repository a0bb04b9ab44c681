"""Files of named arrays: what is written comes back, and nothing in a file is executed."""

import builtins
import os
import pathlib
import pickle
import re

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mtan_jax.interop import files
from mtan_jax.interop.files import WeightsError

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "norm.running_mean": np.array([0.5, -1.25]),
    "norm.num_batches_tracked": np.array(7),
}


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ".pt", ".pth"])
def test_what_is_written_comes_back(tmp_path, ending):
    if ending.startswith(".pt"):
        pytest.importorskip("torch", reason="PyTorch is an optional extra")
    path = tmp_path / "folder" / f"weights{ending}"
    # An array that is not contiguous in memory, as transposed kernels are.
    arrays = {**ARRAYS, "turned": ARRAYS["conv.weight"].transpose(3, 2, 0, 1)}
    files.write(path, arrays)
    found = files.read(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def test_safetensors_of_another_program(tmp_path):
    safetensors.numpy.save_file({"a": np.ones(3, np.float16)}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(files.read(tmp_path / "a.safetensors")["a"], np.ones(3, np.float16))


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ".pt"])
def test_bfloat16_is_written_as_float32(tmp_path, ending):
    if ending == ".pt":
        pytest.importorskip("torch", reason="PyTorch is an optional extra")
    path = tmp_path / f"weights{ending}"
    files.write(path, {"a": np.asarray(jnp.array([1.5, -2.0], jnp.bfloat16))})
    found = files.read(path)["a"]
    assert (found.dtype, found.tolist()) == (np.float32, [1.5, -2.0])


def test_damaged_bytes_in_a_compressed_npz(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, a=np.arange(1000.0))
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{re.escape(str(path))} cannot be read as a npz file"):
        files.read(path)


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ".pt"])
def test_a_damaged_file_is_named(tmp_path, ending):
    if ending == ".pt":
        pytest.importorskip("torch", reason="PyTorch is an optional extra")
    path = tmp_path / f"weights{ending}"
    path.write_bytes(b"no weights at all")
    with pytest.raises(WeightsError, match=f"{re.escape(str(path))} cannot be read"):
        files.read(path)
    files.write(path, ARRAYS)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(WeightsError, match=f"{re.escape(str(path))} cannot be read"):
        files.read(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match=r"missing\.npz does not exist"):
        files.read(tmp_path / "missing.npz")


def test_an_unknown_ending_is_refused_before_anything_is_written(tmp_path):
    for action in (
        lambda path: files.write(path, ARRAYS),
        files.read,
        lambda path: files.checked_path(str(path), "--output"),
    ):
        with pytest.raises(WeightsError, match=r"ends in one of \.npz, \.safetensors, \.pt, \.pth"):
            action(tmp_path / "folder" / "weights.h5")
    assert files.checked_path("~/weights.npz", "--output") == pathlib.Path.home() / "weights.npz"
    assert not (tmp_path / "folder").exists()


class Harmful:
    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickled_objects_are_not_executed(tmp_path):
    harmful, path = Harmful(), tmp_path / "weights.npz"
    harmful.path = str(tmp_path / "executed")
    np.savez(path, a=np.array([harmful], object))
    with pytest.raises(WeightsError, match="cannot be read as a npz file"):
        files.read(path)
    pytest.importorskip("torch", reason="PyTorch is an optional extra")
    import torch

    torch.save({"a": harmful}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=r"only tensors \(UnpicklingError\); save it with torch.save"):
        files.read(tmp_path / "weights.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(harmful, protocol=2))
    with pytest.raises(WeightsError, match="contains only tensors"):
        files.read(tmp_path / "old.pt")
    assert not (tmp_path / "executed").exists()


def test_pytorch_files_of_training_programs(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is an optional extra")
    state = {name: torch.tensor(array) for name, array in ARRAYS.items()}
    state["half"] = torch.full((2,), 1.5, dtype=torch.bfloat16)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "checkpoint.pth")
    found = files.read(tmp_path / "checkpoint.pth")
    assert found.keys() == state.keys()
    assert (found["half"].dtype, found["half"].tolist()) == (np.float32, [1.5, 1.5])
    torch.save([state], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="contains no state_dict"):
        files.read(tmp_path / "list.pt")


def test_without_pytorch_the_message_says_what_would_do(tmp_path, monkeypatch):
    original = builtins.__import__

    def without_torch(name, *arguments, **options):
        if name == "torch":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    path = pathlib.Path(tmp_path / "weights.pt")
    path.write_bytes(b"")
    for action in (
        files.read,
        lambda path: files.checked_path(str(path), "--output"),
        lambda path: files.write(path, ARRAYS),
    ):
        with pytest.raises(WeightsError, match=r"pip install 'mtan_jax\[torch\]'.*\.npz or \.safetensors"):
            action(path)
