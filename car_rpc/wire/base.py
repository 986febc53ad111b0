"""What all wire types share."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct

#: Largest magnitude of an integer that JavaScript reads exactly (ECMA-262, MAX_SAFE_INTEGER).
MAX_SAFE_INTEGER = 2**53 - 1

RequestId: TypeAlias = int | str

NonNegative: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
Positive: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER)]
NonNegativeFloat: TypeAlias = Annotated[float, Meta(ge=0.0)]
UnitInterval: TypeAlias = Annotated[float, Meta(ge=0.0, le=1.0)]


def _exactly(number: str) -> float | Raw:
    value = float(number)
    return value if repr(value) == number else Raw(number.encode())


_decode_exactly = msgspec.json.Decoder(dict[str, Any], float_hook=_exactly).decode


def decode_object(text: bytes) -> dict[str, Any]:
    """A JSON object that is to be patched and passed on.

    A number that would be written otherwise than it was, or is too large, is a ``msgspec.Raw``.

    Raises:
        msgspec.DecodeError: The text is not a JSON object.
    """
    return _decode_exactly(text)


class WireStruct(Struct, frozen=True, kw_only=True):
    """Base of every wire type: immutable, keyword-only, unknown fields ignored.

    A field that may be absent is ``UNSET`` by default; a field that may be null says so.
    ``kw_only`` is not inherited by msgspec, so each subclass repeats both options.
    """
