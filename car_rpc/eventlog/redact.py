"""Replace secrets in the data of an event before it is written.

Two rules. Text that has the shape of a well-known secret becomes ``[redacted:<kind>]``
wherever it stands in a string. A value under a name that says it is a secret
(``api_key``, ``password``, anything in ``headers``) becomes ``***``.

Each event is looked at alone: a secret that is split over two deltas is not found.
"""

from __future__ import annotations

import re
from typing import NamedTuple, TypeAlias

import msgspec

from car_rpc.wire.base import decode_object

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]

_MASK = "***"


class _Shape(NamedTuple):
    """A kind of secret.

    Attributes:
        kind: Stands in the replacement.
        mark: A character of every match that base64 has not, or nothing. To look for one
            character is ten times faster than for several, and the longest texts are base64.
        hint: Text without which the pattern cannot match; finding it is far cheaper than the
            pattern, and most events hold none.
        pattern: Linear in the length of the text: what may repeat without bound begins at a
            boundary or cannot be matched again by what follows.
        keep: Template of what goes before the replacement.
        any_case: Whether the hint, in lower case here, may be written in any.
    """

    kind: str
    mark: str
    hint: str
    pattern: re.Pattern[str]
    keep: str = ""
    any_case: bool = False


_SHAPES = (
    _Shape(
        "private_key",
        "-",
        "-----BEGIN",
        # Without its END line too, since output may have been cut.
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:[^-]|-(?!----))*+"
            r"(?:-----END [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----)?"
        ),
    ),
    _Shape(
        "jwt",
        ".",
        ".eyJ",
        re.compile(r"(?<![\w-])eyJ[\w-]{8,}+\.eyJ[\w-]{8,}+\.[\w-]*", re.ASCII),
    ),
    _Shape("api_key", "-", "sk-", re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{16,}")),
    _Shape("github_token", "_", "github_pat_", re.compile(r"github_pat_[A-Za-z0-9_]{20,}")),
    *(
        _Shape("github_token", "_", hint, re.compile(rf"(?<![A-Za-z0-9]){hint}[A-Za-z0-9]{{20,}}"))
        for hint in ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")
    ),
    _Shape(
        "aws_key", "", "AKIA", re.compile(r"(?<![A-Za-z0-9+/])AKIA[A-Z0-9]{16}(?![A-Za-z0-9+/=])")
    ),
    _Shape("google_key", "", "AIza", re.compile(r"(?<![\w+/-])AIza[\w-]{35}(?![\w-])", re.ASCII)),
    _Shape(
        "slack_token", "-", "xox", re.compile(r"(?<![A-Za-z0-9])xox[abeoprs]-[A-Za-z0-9-]{10,}")
    ),
    _Shape("huggingface_token", "_", "hf_", re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{30,}")),
    _Shape(
        "bearer_token",
        " ",
        "bearer ",
        # A digit or the length tells a token from a word: "the bearer instruments".
        re.compile(
            r"(?<![A-Za-z0-9])((?i:bearer) {1,8})"
            r"(?:(?=[A-Za-z._~+/=-]{0,64}[0-9])[\w.~+/=-]{8,}|[\w.~+/=-]{20,})",
            re.ASCII,
        ),
        keep=r"\1",
        any_case=True,
    ),
)

_MARKS = ("", *{shape.mark for shape in _SHAPES if shape.mark})

#: Names of secrets, in lower case with ``_`` for ``-``.
_SECRET_NAMES = frozenset(
    {
        "access_token",
        "api_key",
        "api_keys",
        "apikey",
        "auth_token",
        "authorization",
        "client_secret",
        "cookie",
        "id_token",
        "passphrase",
        "passwd",
        "password",
        "private_key",
        "proxy_authorization",
        "refresh_token",
        "secret",
        "secret_access_key",
        "secret_key",
        "session_token",
        "set_cookie",
        "token",
        "x_api_key",
        "x_auth_token",
        "x_goog_api_key",
    }
)
_SECRET_ENDINGS = ("_api_key", "_password", "_secret", "_access_token")
_HEADERS = "headers"

# How the secret names end, so that the encoded text can be searched for all of them quickly.
_NAME_HINTS = (
    *(b'key"', b'keys"', b'token"', b'secret"', b'passwd"', b'password"', b'passphrase"'),
    *(b'authorization"', b'cookie"', b'headers"'),
)
_COLON = re.compile(rb"[ \t\r\n]*+:")
# An escape can hide a hint. None of the hints has a character with a shorter escape.
_TEXT_HINTS = (b"\\u", *(shape.hint.lower().encode() for shape in _SHAPES))

#: With fewer than one value in so many bytes, to search them one by one is faster than to search
#: the encoded text for all hints.
_DENSE_BYTES = 1024


def redact_json(text: bytes) -> bytes:
    """An encoded JSON object with its secrets replaced.

    Args:
        text: A JSON object in UTF-8.

    Returns:
        The same bytes if there was nothing to replace; else the object encoded again.

    Raises:
        msgspec.DecodeError: The text is not a JSON object.
        UnicodeDecodeError: The text is not UTF-8.
        RecursionError: It is nested too deeply to be searched.
    """
    value: JsonObject = decode_object(text)
    is_dense = _has_more_values(value, len(text) // _DENSE_BYTES)
    if is_dense and not _may_hold_secrets(text.lower()):
        return text
    redacted = redact(value)
    return text if redacted == value else msgspec.json.encode(redacted)


def redact(value: JsonValue, *, secret: bool = False) -> JsonValue:
    """A decoded JSON value with its secrets replaced.

    Args:
        value: Any JSON value; it is not changed.
        secret: Whether the value stands under the name of a secret. Then its scalars are
            masked, also those in lists. Objects are searched by their own names, because a
            JSON Schema may well have a property named ``password``.
    """
    match value:
        case str():
            return _MASK if secret and value else redact_text(value)
        case list():
            return [redact(item, secret=secret) for item in value]
        case dict():
            return _redact_object(value)
        case bool() | None:
            return value
        case _:
            return _MASK if secret else value


def redact_text(text: str) -> str:
    """A text with everything that has the shape of a secret replaced."""
    marks = {mark for mark in _MARKS if mark in text}
    for kind, mark, hint, pattern, keep, any_case in _SHAPES:
        if mark in marks and hint in (text.lower() if any_case else text):
            text = pattern.sub(f"{keep}[redacted:{kind}]", text)
    return text


def _has_more_values(value: JsonValue, limit: int) -> bool:
    waiting = [value]
    while waiting and limit >= 0:
        limit -= 1
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return limit < 0


def _may_hold_secrets(lowered: bytes) -> bool:
    """Whether anything of an encoded object, in lower case, looks like a secret or its name."""
    return any(hint in lowered for hint in _TEXT_HINTS) or any(
        _has_name(lowered, hint) for hint in _NAME_HINTS
    )


def _has_name(lowered: bytes, ending: bytes) -> bool:
    """Whether the name of a member ends so; a text that does is none."""
    at = lowered.find(ending)
    while at >= 0:
        if _COLON.match(lowered, at + len(ending)):
            return True
        at = lowered.find(ending, at + 1)
    return False


def _redact_object(value: JsonObject, *, all_secret: bool = False) -> JsonObject:
    redacted: JsonObject = {}
    for name, item in value.items():
        if _is_headers(name) and isinstance(item, dict):
            redacted[name] = _redact_object(item, all_secret=True)
        else:
            redacted[redact_text(name)] = redact(item, secret=all_secret or _is_secret(name))
    return redacted


def _is_secret(name: str) -> bool:
    plain = name.lower().replace("-", "_")
    return plain in _SECRET_NAMES or plain.endswith(_SECRET_ENDINGS)


def _is_headers(name: str) -> bool:
    return name.lower() == _HEADERS
