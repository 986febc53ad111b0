"""Find what is usable in a message that cannot be parsed."""

from __future__ import annotations

import re

import msgspec

from car_rpc.wire.base import MAX_SAFE_INTEGER, RequestId

_STRING = rb'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*"'  # RFC 8259
_NUMBER = rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_TOKEN = re.compile(rb"[ \t\r\n]*(" + _STRING + rb"|" + _NUMBER + rb"|true|false|null|[\[\]{}:,])")
_OPENING = {b"]": b"[", b"}": b"{"}
#: What a token is at its place, where the token itself does not say it.
_KEY = b"key"
_VALUE = b"value"


def recover_id(prefix: bytes) -> RequestId | None:
    """The id of a broken request: a top-level member of the intact part of the message.

    Args:
        prefix: The message or its beginning.

    Returns:
        The id, or ``None`` when there is none to be trusted: not found before the damage,
        of a wrong type, or part of something that is not a request.
    """
    try:
        prefix.decode()
    except UnicodeDecodeError as error:
        prefix = prefix[: error.start]
    members = _outermost_members(prefix)
    if "result" in members or "error" in members:
        return None
    return usable_id(members.get("id"))


def usable_id(raw: bytes | None) -> RequestId | None:
    """The id that some JSON is, if it is one."""
    if raw is None:
        return None
    try:
        value = msgspec.json.decode(raw, type=int | str)
    except msgspec.DecodeError:
        return None
    return value if valid_id(value) else None


def valid_id(value: RequestId) -> bool:
    """Whether an id is one that every peer can echo exactly."""
    return isinstance(value, str) or abs(value) <= MAX_SAFE_INTEGER


def _outermost_members(text: bytes) -> dict[str, bytes | None]:
    """Members of the outermost object up to the first byte that is no JSON.

    Containers, and values that are not complete, map to ``None``. The nesting may be as deep as
    it likes.
    """
    members: dict[str, bytes | None] = {}
    opened = bytearray()
    before, name = b"", ""
    scalar: bytes | None = None
    position = 0
    while found := _TOKEN.match(text, position):
        token, position = found[1], found.end()
        container = bytes(opened[-1:])
        role = _role(token[:1], before, container)
        if role is None or (token[:1] == b'"' and not _is_text(token)):
            break
        if len(opened) == 1 and container == b"{":
            if role == _KEY:
                name = msgspec.json.decode(token)
            elif token == b":":
                members[name] = scalar = None
            elif token in (b",", b"}") and before == _VALUE:
                members[name] = scalar
            elif role == _VALUE:
                scalar = token
        if token in (b"[", b"{"):
            opened += token
        elif token in _OPENING:
            opened.pop()
        before = role
    return members


def _role(mark: bytes, before: bytes, container: bytes) -> bytes | None:
    """What a token is, told by its first byte, or ``None`` where no such token may stand."""
    if mark == b":":
        return mark if before == _KEY else None
    if mark == b",":
        return mark if before == _VALUE and container else None
    if opening := _OPENING.get(mark):
        return _VALUE if container == opening and before in (_VALUE, opening) else None
    if container == b"{" and before in (b"{", b","):
        return _KEY if mark == b'"' else None
    if before in (b"", b"[", b":", b","):
        return mark if mark in (b"[", b"{") else _VALUE
    return None


def _is_text(string: bytes) -> bool:
    # Escapes can spell half a surrogate pair, which is no text.
    if rb"\u" not in string:
        return True
    try:
        msgspec.json.decode(string)
    except msgspec.DecodeError:
        return False
    return True
