"""Measure the nesting of a JSON text without parsing it."""

from __future__ import annotations

from itertools import accumulate
from operator import add

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
#: Opening brackets become the digit 1, closing ones 0.
_DIGITS = bytes.maketrans(b"[{]}", b"1100")


def _levels(digits: str) -> list[int]:
    """The nesting behind each of some brackets, with none before them."""
    return list(accumulate(1 if digit == "1" else -1 for digit in digits))


_EIGHT = [_levels(f"{packed:08b}") for packed in range(256)]
#: For eight brackets, packed into a byte: how much deeper the nesting is behind them, modulo 256,
#: and how much deeper it gets among them at most.
_CHANGE = bytes(levels[-1] % 256 for levels in _EIGHT)
_RISE = bytes(max(0, *levels) for levels in _EIGHT)


def deeper_than(text: bytes, limit: int) -> bool:
    """Whether a JSON text nests deeper than ``limit`` arrays and objects.

    A few passes in C over the brackets outside strings, eight brackets at a time. Kinds of
    brackets are not told apart and balance is not judged: the parser does both.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    digits = _outside_strings(text).translate(_DIGITS, _NOT_BRACKETS)
    size = len(digits) // 8 + 1
    packed = int(digits.ljust(size * 8, b"0"), 2).to_bytes(size, "big")
    before = accumulate(memoryview(packed.translate(_CHANGE)).cast("b"), initial=0)
    deepest: int = max(map(add, before, packed.translate(_RISE)))
    return deepest > limit


def _outside_strings(text: bytes) -> bytes:
    # Without escapes, every other piece between quotes is outside a string.
    unescaped = text.replace(rb"\\", b"").replace(rb"\"", b"")
    return b"".join(unescaped.split(b'"')[::2])
