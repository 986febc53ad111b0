"""The header of a GGUF file: its metadata, and the tensors that it holds.

Written here, not left to the ``gguf`` package: that one needs numpy, which the core does not load,
and trusts what it reads. A file may come from anywhere, so every length is bounded before it is
believed. The format is small and stable (ggml, ``docs/gguf.md``, version 3).
"""

from __future__ import annotations

import stat
import struct
from io import SEEK_CUR
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

#: Bounds. The largest known headers are those of vocabularies of 260 000 tokens, below 20 MiB.
MAX_HEADER_BYTES = 64 * 1024 * 1024
MAX_ENTRIES = 65_536
MAX_KEY_BYTES = 65_535
MAX_DIMENSIONS = 8
MAX_STRINGS = 2_000_000

#: Longer strings and arrays are stepped over: nobody asks for a vocabulary or a template.
MAX_KEPT_BYTES = 1024
MAX_KEPT_ELEMENTS = 1024

Value: TypeAlias = int | float | bool | str | list[int]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
STRING, FLOAT32 = 8, 6
_ARRAY, _BOOL = 9, 7
_NUMBERS = {
    number: struct.Struct("<" + code)
    for number, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        FLOAT32: "f",
        _BOOL: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_INTEGERS = (0, 1, 2, 3, 4, 5, 10, 11)
_U32, _U64 = _NUMBERS[4], _NUMBERS[10]

#: Tensors that make a score of a text (llama.cpp, ``LLM_TENSOR_CLS`` and ``LLM_TENSOR_CLS_OUT``).
_RANK_HEADS = frozenset({"cls.weight", "cls.output.weight"})


class Tensor(NamedTuple):
    """A tensor of a file.

    Attributes:
        shape: Its dimensions, the fastest one first.
        kind: What its elements are (ggml, ``enum ggml_type``).
    """

    shape: tuple[int, ...]
    kind: int


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        metadata: Numbers, short strings and short arrays of integers by their key. What is
            longer is there as an empty string.
        kinds: What each of these values is (ggml, ``enum gguf_type``).
        tensors: The tensors of this file by their name.
    """

    metadata: dict[str, Value]
    kinds: dict[str, int]
    tensors: dict[str, Tensor]

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def has_rank_head(self) -> bool:
        """Whether a tensor makes a score of a text, as rerankers do."""
        return not _RANK_HEADS.isdisjoint(self.tensors)


def read_header(file: BinaryIO) -> Header:
    """Read the header at the start of a file.

    Raises:
        ValueError: It is no GGUF file of a known version, or is cut off, or its lengths exceed
            the bounds.
        OSError: It cannot be read.
    """
    reader = _Reader(file)
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise ValueError("it is not a GGUF file")
    version = reader.number(_U32)
    if version not in _VERSIONS:
        raise ValueError(f"GGUF version {version} is not known")
    tensors, pairs = reader.count(), reader.count()
    metadata: dict[str, Value] = {}
    kinds: dict[str, int] = {}
    for _ in range(pairs):
        key = reader.text(MAX_KEY_BYTES)
        kinds[key] = reader.number(_U32)
        metadata[key] = reader.value(kinds[key])
    return Header(metadata, kinds, dict(reader.tensor() for _ in range(tensors)))


def read_file(path: str | Path) -> Header:
    """Read the header of a file; see :func:`read_header`."""
    path = Path(path)
    if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would wait for its other end
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        return read_header(file)


class _Reader:
    """Takes values from a file, never beyond the bounds."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = MAX_HEADER_BYTES

    def take(self, size: int) -> bytes:
        self._spend(size)
        data = self._file.read(size)
        if len(data) < size:
            raise ValueError("its header is cut off")
        return data

    def skip(self, size: int) -> None:
        self._spend(size)
        self._file.seek(size, SEEK_CUR)  # beyond the end: the next value finds it cut off

    def number(self, code: struct.Struct) -> int:
        (value,) = code.unpack(self.take(code.size))
        return int(value)

    def count(self) -> int:
        count = self.number(_U64)
        if count > MAX_ENTRIES:
            raise ValueError(f"it declares {count} entries, which is beyond belief")
        return count

    def text(self, longest: int) -> str:
        size = self.number(_U64)
        if size > longest:
            raise ValueError("a name in its header is too long")
        return self.take(size).decode("utf-8", "replace")

    def value(self, kind: int) -> Value:
        if kind == STRING:
            size = self.number(_U64)
            if size <= MAX_KEPT_BYTES:
                return self.take(size).decode("utf-8", "replace")
            self.skip(size)
            return ""
        if kind == _ARRAY:
            return self._array()
        code = _number_type(kind)
        value: int | float | bool
        (value,) = code.unpack(self.take(code.size))
        return value

    def tensor(self) -> tuple[str, Tensor]:
        """A tensor and its name."""
        name = self.text(MAX_KEY_BYTES)
        dimensions = self.number(_U32)
        if dimensions > MAX_DIMENSIONS:
            raise ValueError(f"a tensor has {dimensions} dimensions")
        shape = tuple(self.number(_U64) for _ in range(dimensions))
        kind = self.number(_U32)
        self.skip(_U64.size)  # where it lies
        return name, Tensor(shape, kind)

    def _array(self) -> Value:
        kind, length = self.number(_U32), self.number(_U64)
        if kind == STRING:
            if length > MAX_STRINGS:
                raise ValueError(f"it declares {length} strings, which is beyond belief")
            for _ in range(length):
                self.skip(self.number(_U64))
            return ""
        code = _number_type(kind)  # no known model nests arrays
        if kind in _INTEGERS and length <= MAX_KEPT_ELEMENTS:
            return [self.number(code) for _ in range(length)]
        self.skip(code.size * length)
        return ""

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError(f"its header is longer than {MAX_HEADER_BYTES} bytes")


def _number_type(kind: int) -> struct.Struct:
    if kind not in _NUMBERS:
        raise ValueError(f"a value in its header has the unknown type {kind}")
    return _NUMBERS[kind]
