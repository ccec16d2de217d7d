"""Files of the format safetensors: what was written is read, and nothing in a header is trusted."""

import json

import pytest
import torch

from course_lib.networks.safe_tensors import DTYPES, read_safetensors, write_safetensors


def file_of(header: dict | list | str, data: bytes = b"") -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(**changes) -> dict:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


def test_what_was_written_is_read_and_the_same_tensors_give_the_same_bytes(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(2, 3, generator=generator).to(dtype) for name, dtype in DTYPES.items()}
    tensors |= {"scalar": torch.tensor(7), "empty": torch.zeros(0, 4), "turned": torch.arange(6.0).reshape(2, 3).T}
    path = write_safetensors(tmp_path / "a.safetensors", tensors, {"b": "2", "a": "1"})
    read, about = read_safetensors(path.read_bytes())
    assert about == {"a": "1", "b": "2"} and read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name
    other = write_safetensors(tmp_path / "b.safetensors", dict(reversed(tensors.items())), {"a": "1", "b": "2"})
    assert other.read_bytes() == path.read_bytes()


def test_the_bytes_are_those_of_the_format():
    """Written by hand from the format's page: header length, header, little-endian numbers."""
    half = b"\x00\x3c\x00\xc0"  # 1.0 and -2.0 in 16 bits
    tensors, about = read_safetensors(file_of(entry(dtype="F16", data_offsets=[0, 4]), half))
    assert tensors["w"].tolist() == [1.0, -2.0] and about == {}


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "cut off"),
        (b"\xff" * 8, "cut off"),
        (file_of(entry(), bytes(8))[:-1], "do not fit"),
        (file_of(entry(data_offsets=[0, 4]), bytes(8)), "do not fit"),
        (file_of(entry(data_offsets=[4, 12]), bytes(8)), "do not fit"),
        (file_of(entry(data_offsets=[-8, 0]), bytes(8)), "at least 0"),
        (file_of(entry(shape=[-2]), bytes(8)), "at least 0"),
        (file_of(entry(shape=[2.0]), bytes(8)), "at least 0"),
        (file_of(entry(shape=[2**70]), bytes(8)), "do not fit"),
        (file_of(entry(dtype="F8"), bytes(8)), "not one of safetensors.*F8"),
        (file_of(entry(more=1), bytes(8)), "not one of safetensors.*more"),
        (file_of({"w": 3}), "not one of safetensors"),
        (file_of([1]), "not one of safetensors"),
        (file_of("{"), "Expecting"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(content, words):
    with pytest.raises(ValueError, match=words):
        read_safetensors(content)
