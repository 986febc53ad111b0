"""Requests and responses of ``/v1/embeddings``. Pure."""

from __future__ import annotations

import base64
import binascii
import math
import sys
from array import array
from collections.abc import Sequence
from typing import Any

import msgspec

from car_rpc.errors import CarError

#: Texts in one request; OpenAI takes 2048, and smaller requests keep the responses small.
BATCH = 256

#: Longest response, in bytes: 256 vectors of 8192 numbers in decimal digits.
MAX_RESPONSE_BYTES = 64 * 1024 * 1024


class _Vector(msgspec.Struct):
    embedding: list[float] | str
    index: int | None = None


class _Response(msgspec.Struct):
    data: list[_Vector]
    usage: dict[str, Any] | None = None


class Vectors:
    """Collects the vectors of all batches as little-endian float32 of unit length."""

    def __init__(self) -> None:
        self.dimensions = 0
        self.prompt_tokens = 0
        self._data = bytearray()

    @property
    def data(self) -> bytes:
        """All vectors, one after the other."""
        return bytes(self._data)

    def add(self, body: bytes, texts: int) -> None:
        """Add the response for so many texts.

        Raises:
            CarError: ``provider_error`` for a response that does not fit them.
        """
        try:
            response = msgspec.json.decode(body, type=_Response)
            rows = [_unit(_numbers(vector.embedding)) for vector in _ordered(response.data)]
        except (ValueError, RecursionError):
            raise CarError(
                "provider_error", "the server's embeddings were not understood"
            ) from None
        if len(rows) != texts:
            detail = f"the server embedded {len(rows)} texts instead of {texts}"
            raise CarError("provider_error", detail)
        for row in rows:
            self.dimensions = self.dimensions or len(row)
            if len(row) != self.dimensions or not row:
                raise CarError("provider_error", "the server's vectors differ in length")
            self._data += row.tobytes()
        tokens = (response.usage or {}).get("prompt_tokens")
        self.prompt_tokens += max(tokens, 0) if isinstance(tokens, int) else 0


def _ordered(vectors: Sequence[_Vector]) -> list[_Vector]:
    """In the order of their texts: by index where every vector has one."""
    if any(vector.index is None for vector in vectors):
        return list(vectors)
    return sorted(vectors, key=lambda vector: vector.index or 0)


def _numbers(embedding: list[float] | str) -> Sequence[float]:
    if isinstance(embedding, list):
        return embedding
    try:
        row = array("f", base64.b64decode(embedding, validate=True))
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if sys.byteorder == "big":
        row.byteswap()
    return row


def _unit(numbers: Sequence[float]) -> array[float]:
    length = math.sqrt(math.fsum(number * number for number in numbers))
    if not math.isfinite(length):
        raise ValueError("a number is not finite")
    row = array("f", (number / length for number in numbers) if length else numbers)
    if sys.byteorder == "big":
        row.byteswap()
    return row
