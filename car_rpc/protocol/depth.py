"""Measure the nesting of a JSON text without parsing it."""

from __future__ import annotations

from itertools import accumulate

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
#: Opening brackets become 1, closing ones 255, which is -1 as a signed byte.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


def deeper_than(text: bytes, limit: int) -> bool:
    """Whether a JSON text nests deeper than ``limit`` arrays and objects.

    One pass in C over the brackets outside strings. Kinds of brackets are not told apart and
    balance is not judged: the parser does both.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    steps = _outside_strings(text).translate(_STEPS, _NOT_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > limit


def _outside_strings(text: bytes) -> bytes:
    # Without escapes, every other piece between quotes is outside a string.
    unescaped = text.replace(rb"\\", b"").replace(rb"\"", b"")
    return b"".join(unescaped.split(b'"')[::2])
