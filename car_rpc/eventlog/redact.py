"""Replace secrets in the data of an event before it is written. Pure.

Two rules. Text that has the shape of a secret becomes ``[redacted:<kind>]`` wherever it stands
in a string (:mod:`car_rpc.eventlog.shapes`). A value under a name that says it is a secret
(``api_key``, ``password``, anything in ``headers``) becomes ``***``.

Each event is looked at alone; :mod:`car_rpc.eventlog.stream` finds what is split over deltas.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

import msgspec

from car_rpc.eventlog.shapes import KNOWN, NONE, Secrets, hinting
from car_rpc.wire.base import decode_object

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]

#: Where secrets are looked for: in all strings, only in values under their names, or nowhere.
Search: TypeAlias = Literal["all", "names", "nowhere"]

_MASK = "***"


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
# An escape can hide a name or a secret. None of them needs a character with a shorter escape.
_ESCAPE = b"\\u"

#: With fewer than one value in so many bytes, to search them one by one is faster than to search
#: the encoded text for all hints.
_DENSE_BYTES = 1024

#: Reads an object without making its values: the numbers of vectors would take most of the time.
_check = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def redact_json(text: bytes, secrets: Secrets = KNOWN, search: Search = "all") -> bytes:
    """An encoded JSON object with its secrets replaced.

    Args:
        text: A JSON object in UTF-8.
        secrets: What is replaced in strings.
        search: Where it is looked for.

    Returns:
        The same bytes if there was nothing to replace; else the object encoded again.

    Raises:
        msgspec.DecodeError: The text is not a JSON object.
        UnicodeDecodeError: The text is not UTF-8.
        RecursionError: It is nested too deeply to be searched.
    """
    if search == "nowhere":
        return text
    if search == "names":
        secrets = NONE
    if _is_dense(text) and not _may_hold_secrets(hinting(text), secrets):
        _check(text.decode())
        return text
    value: JsonObject = decode_object(text)
    redacted = redact(value, secrets)
    return text if redacted == value else msgspec.json.encode(redacted)


def redact(value: JsonValue, secrets: Secrets = KNOWN, *, secret: bool = False) -> JsonValue:
    """A decoded JSON value with its secrets replaced.

    Args:
        value: Any JSON value; it is not changed.
        secrets: What is replaced in strings.
        secret: Whether the value stands under the name of a secret. Then its scalars are
            masked, also those in lists. Objects are searched by their own names, because a
            JSON Schema may well have a property named ``password``.
    """
    match value:
        case str():
            return _MASK if secret and value else secrets.replace(value)
        case list():
            return [redact(item, secrets, secret=secret) for item in value]
        case dict():
            return _redact_object(value, secrets)
        case bool() | None:
            return value
        case _:
            return _MASK if secret else value


def _is_dense(text: bytes) -> bool:
    # The log's JSON is compact. A comma before a space belongs to somebody's prose.
    return text.count(b",") - text.count(b", ") >= len(text) // _DENSE_BYTES


def _may_hold_secrets(hints: bytes, secrets: Secrets) -> bool:
    """Whether anything of an encoded object looks like a secret or its name."""
    return (
        _ESCAPE in hints
        or secrets.may_be_in(hints)
        or any(_has_name(hints, ending) for ending in _NAME_HINTS)
    )


def _has_name(hints: bytes, ending: bytes) -> bool:
    """Whether the name of a member ends so; a text that does is none."""
    at = hints.find(ending)
    while at >= 0:
        if _COLON.match(hints, at + len(ending)):
            return True
        at = hints.find(ending, at + 1)
    return False


def _redact_object(value: JsonObject, secrets: Secrets, *, all_secret: bool = False) -> JsonObject:
    redacted: JsonObject = {}
    for name, item in value.items():
        if _is_headers(name) and isinstance(item, dict):
            redacted[name] = _redact_object(item, secrets, all_secret=True)
        else:
            is_secret = all_secret or _is_secret(name)
            redacted[secrets.replace(name)] = redact(item, secrets, secret=is_secret)
    return redacted


def _is_secret(name: str) -> bool:
    plain = name.lower().replace("-", "_")
    return plain in _SECRET_NAMES or plain.endswith(_SECRET_ENDINGS)


def _is_headers(name: str) -> bool:
    return name.lower() == _HEADERS
