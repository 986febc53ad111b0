"""A folder of safetensors weights, as MLX and transformers keep them.

Every file is read within bounds, because it may come from anywhere.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

#: Longest file of settings that is read, in bytes. A tokenizer's own file is longer; nobody asks.
MAX_CONFIG_BYTES = 4 * 1024 * 1024

#: Longest header of tensors that is read, in bytes. The format allows 100 MB; a thousand tensors
#: take a hundred kilobytes.
MAX_HEADER_BYTES = 16 * 1024 * 1024

#: Most files of weights that are looked into.
MAX_FILES = 512

_LENGTH_BYTES = 8
_PACKED_BITS = 32


class Weights(NamedTuple):
    """All weights of a folder.

    Attributes:
        size_bytes: Size of their files.
        parameters: How many numbers they hold, or 0 when that is unknown.
    """

    size_bytes: int
    parameters: int


class _Tensor(msgspec.Struct):
    dtype: str = ""
    shape: list[int] = []


_decode_header = msgspec.json.Decoder(dict[str, _Tensor]).decode


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when it is missing, too long or none."""
    if not path.is_file():  # a named pipe would wait for its other end
        return {}
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            return {}
        return msgspec.json.decode(data, type=dict[str, Any])
    except (OSError, msgspec.DecodeError, RecursionError):
        return {}


def read_weights(folder: Path, bits: int | None) -> Weights:
    """Sizes and parameters of a folder's weights.

    Args:
        folder: The folder.
        bits: Bits of a weight that MLX has packed into integers; ``None`` where it has not.

    Raises:
        OSError: A file cannot be read.
    """
    files = sorted(path for path in folder.glob("*.safetensors") if path.is_file())[:MAX_FILES]
    parameters = 0
    for path in files:
        with path.open("rb") as file:
            parameters += _parameters(file, bits)
    return Weights(sum(path.stat().st_size for path in files), parameters)


def _parameters(file: BinaryIO, bits: int | None) -> int:
    size = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    header = file.read(min(size, MAX_HEADER_BYTES))
    try:
        tensors = _decode_header(header)
    except msgspec.DecodeError:  # cut off, too long or no such file
        return 0
    return sum(
        _elements(tensor, bits) for name, tensor in tensors.items() if not _is_scale(name, tensors)
    )


def _is_scale(name: str, tensors: dict[str, _Tensor]) -> bool:
    """Whether a tensor only helps to unpack the weights beside it."""
    stem, _, last = name.rpartition(".")
    return last in ("scales", "biases") and f"{stem}.scales" in tensors


def _elements(tensor: _Tensor, bits: int | None) -> int:
    elements = prod(size for size in tensor.shape if size >= 0) if tensor.shape else 0
    if bits and tensor.dtype == "U32":
        return elements * _PACKED_BITS // bits
    return elements
