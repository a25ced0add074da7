import numpy as np
import pytest
import torch
from data.manifest.sample_files import archive, array
from safetensors.torch import save, save_file

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.arrays import read_array, read_features


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i4", "u1"])
@pytest.mark.parametrize("shape", [(5,), (1, 5)])
def test_npy(tmp_path, dtype, shape):
    values = np.array([3, 1, 4, 1, 5], dtype).reshape(shape)
    np.save(tmp_path / "a.npy", values)
    found = read_features(tmp_path / "a.npy")
    assert found.dtype == torch.float32
    assert found.tolist() == [3, 1, 4, 1, 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_safetensors(tmp_path, dtype):
    values = torch.tensor([[3, 1, 4, 1, 5]], dtype=dtype)
    save_file({"any name": values}, tmp_path / "a.safetensors")
    found = read_features(tmp_path / "a.safetensors")
    assert found.dtype == torch.float32
    assert found.tolist() == [3, 1, 4, 1, 5]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", array(np.zeros((2, 3))), r"holds \(2, 3\), not one vector"),
        ("a.npy", array(np.float32(3)), "not one vector"),
        ("a.npy", array(np.zeros(0)), "not one vector|no array"),
        ("a.npy", array(np.array([1, np.inf])), "not finite"),
        ("a.npy", array(np.array([1e300])), "not finite in float32"),
        ("a.npy", array(np.array(["a"])), "neither integers nor floats"),
        ("a.npy", array(np.array([1j])), "neither integers nor floats"),
        ("a.npy", array(np.array([True])), "neither integers nor floats"),
        ("a.npy", archive(x=np.zeros(3)), "archive"),
        ("a.npy", b"", "is empty"),
        ("a.npy", array(np.zeros(3))[:-1], "no array"),
        ("a.safetensors", b"", "is empty"),
        ("a.safetensors", b"\xff" * 64, "no safetensors"),
        ("a.safetensors", save({"x": torch.zeros(3)})[:-1], "no safetensors"),
        ("a.safetensors", save({"x": torch.zeros(3), "y": torch.zeros(3)}), "holds 2 tensors"),
        ("a.safetensors", save({"x": torch.tensor([torch.nan])}), "not finite"),
        ("a.safetensors", save({"x": torch.zeros(3, dtype=torch.bool)}), "neither integers"),
    ],
)
def test_what_is_no_vector(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFile, match=words):
        read_features(tmp_path / name)


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2", "u1", "<f2"])
def test_an_array_as_it_is(tmp_path, dtype):
    values = np.asfortranarray(np.arange(24).reshape(2, 3, 4).astype(dtype))
    np.save(tmp_path / "a.npy", values)
    found = read_array(tmp_path / "a.npy")
    assert (found.numpy() == values).all()
    assert found.numpy().dtype == values.dtype.newbyteorder("=")
    assert found.is_contiguous()


@pytest.mark.parametrize(
    "values", [np.array(["a"]), np.array([1j]), np.array([np.nan]), np.zeros(3, "M8[s]")]
)
def test_an_array_that_is_none_of_numbers(tmp_path, values):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(UnreadableFile):
        read_array(tmp_path / "a.npy")
