"""What all wire types share."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

#: Largest magnitude of an integer that JavaScript reads exactly (ECMA-262, MAX_SAFE_INTEGER).
MAX_SAFE_INTEGER = 2**53 - 1

RequestId: TypeAlias = int | str

NonNegative: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
Positive: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER)]


class WireStruct(Struct, frozen=True, kw_only=True):
    """Base of every wire type: immutable, keyword-only, unknown fields ignored.

    A field that may be absent is ``UNSET`` by default; a field that may be null says so.
    ``kw_only`` is not inherited by msgspec, so each subclass repeats both options.
    """
