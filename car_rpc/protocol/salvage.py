"""Find what is usable in a message that cannot be parsed."""

from __future__ import annotations

import re

import msgspec

from car_rpc.wire.base import MAX_SAFE_INTEGER, RequestId

_SPACE = rb"[ \t\r\n]*"
_STRING = rb'"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*"'
_MEMBER = re.compile(_SPACE + rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE)
_SCALAR = re.compile(rb"(?:" + _STRING + rb"|-?[0-9][0-9.eE+-]*|true|false|null)(?=[ \t\r\n]*[,}])")
_TOKEN = re.compile(_STRING + rb'|[\[\]{}"]')
_COMMA = re.compile(_SPACE + rb",")


def recover_id(prefix: bytes) -> RequestId | None:
    """The id of a broken request: a top-level member of the intact part of the message.

    Args:
        prefix: The message or its beginning.

    Returns:
        The id, or ``None`` when there is none to be trusted: not found before the damage,
        of a wrong type, or part of something that is not a request.
    """
    members = _top_level_scalars(prefix)
    if b'"result"' in members or b'"error"' in members:
        return None
    raw = members.get(b'"id"')
    if raw is None:
        return None
    try:
        value = msgspec.json.decode(raw, type=int | str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return value if valid_id(value) else None


def valid_id(value: RequestId) -> bool:
    """Whether an id is one that every peer can echo exactly."""
    return isinstance(value, str) or abs(value) <= MAX_SAFE_INTEGER


def _top_level_scalars(prefix: bytes) -> dict[bytes, bytes | None]:
    """Members of the outermost object, in order, up to the first byte that does not fit.

    Containers are skipped and map to ``None``.
    """
    members: dict[bytes, bytes | None] = {}
    start = re.match(_SPACE + rb"\{", prefix)
    position = start.end() if start else len(prefix)
    while key := _MEMBER.match(prefix, position):
        position = key.end()
        scalar = _SCALAR.match(prefix, position)
        if scalar:
            members[key[1]] = scalar[0]
            position = scalar.end()
        else:
            members[key[1]] = None
            position = _skip_container(prefix, position)
        comma = _COMMA.match(prefix, position)
        if not comma:
            break
        position = comma.end()
    return members


def _skip_container(prefix: bytes, position: int) -> int:
    """Index behind the container that begins at ``position``, or the end when it is open."""
    if prefix[position : position + 1] not in (b"{", b"["):
        return len(prefix)
    depth = 0
    for token in _TOKEN.finditer(prefix, position):
        if token[0] in (b"{", b"["):
            depth += 1
        elif token[0] in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                return token.end()
        elif token[0] == b'"':
            break  # a string that is broken or not there to its end
    return len(prefix)
