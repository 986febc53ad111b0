"""Measure the nesting of a JSON text without parsing it."""

from __future__ import annotations

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_AS_BRACES = bytes.maketrans(b"[]", b"{}")


def deeper_than(text: bytes, limit: int) -> bool:
    """Whether a JSON text nests deeper than ``limit`` arrays and objects.

    Each pass over the brackets removes the innermost level, so the work is bounded by
    ``limit`` passes, all of them in C. Kinds of brackets are not told apart and unbalanced
    text is not judged: the parser refuses both.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    braces = _outside_strings(text).translate(_AS_BRACES, _NOT_BRACKETS)
    for _ in range(limit):
        peeled = braces.replace(b"{}", b"")
        if len(peeled) == len(braces):
            break
        braces = peeled
    return b"{}" in braces or braces.count(b"{") > limit


def _outside_strings(text: bytes) -> bytes:
    # Without escapes, every other piece between quotes is outside a string.
    unescaped = text.replace(rb"\\", b"").replace(rb"\"", b"")
    return b"".join(unescaped.split(b'"')[::2])
