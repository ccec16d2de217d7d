"""Tensors by name in one file of the format safetensors: a JSON header, then the bytes. Nothing in it can run code.

    8 bytes     length n of the header, little-endian
    n bytes     {"__metadata__": {str: str}, NAME: {"dtype": "F16", "shape": [..], "data_offsets": [begin, end]}, ...}
    the rest    each tensor's bytes, little-endian, C order; offsets count from here

Written here in the order of names, without gaps: the same tensors give the same bytes. https://github.com/huggingface/safetensors
"""

import json
import math
import sys
from pathlib import Path

import torch
from torch import Tensor

from course_lib.files import write_whole

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_safetensors(path: Path | str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    """Write CPU tensors and texts about them to `path`, whole or not at all."""
    header, parts, end = {"__metadata__": dict(sorted(metadata.items()))}, [], 0
    for name, tensor in sorted(tensors.items()):
        part = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        begin, end = end, end + len(part)
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        parts.append(part)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format: data begins at a multiple of 8
    return write_whole(path, len(text).to_bytes(8, "little") + text + b"".join(parts))


def read_safetensors(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata in the bytes of a file.

    Raises ValueError where a length, type, shape or offset does not fit: no number in the header is trusted.
    """
    if sys.byteorder != "little":
        raise ValueError("safetensors files are little-endian and this machine is not.")
    start = 8 + int.from_bytes(content[:8], "little")
    if len(content) < 8 or start > len(content):
        raise ValueError(f"{len(content)} bytes hold no whole header of safetensors: cut off, or another format.")
    try:
        header = json.loads(content[8:start])
        metadata = dict(header.pop("__metadata__", {}))
        tensors = {name: _tensor(content, start, **entry) for name, entry in header.items()}
    except (UnicodeDecodeError, RecursionError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"The header is not one of safetensors ({type(error).__name__}: {error}).") from error
    return tensors, metadata


def _tensor(content: bytes, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    begin, end = data_offsets
    if not all(type(size) is int and size >= 0 for size in (*shape, begin, end)):
        raise ValueError(f"Shape {shape} and offsets {data_offsets} have to be whole numbers of at least 0.")
    if end - begin != math.prod(shape) * DTYPES[dtype].itemsize or start + end > len(content):
        raise ValueError(f"Offsets {data_offsets} do not fit {dtype} {shape} and the {len(content) - start} bytes that follow.")
    part = torch.frombuffer(bytearray(content[start + begin : start + end]), dtype=torch.uint8) if end > begin else None
    return torch.empty(shape, dtype=DTYPES[dtype]) if part is None else part.view(DTYPES[dtype]).reshape(shape)
