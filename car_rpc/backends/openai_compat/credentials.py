"""The headers of a request, and which of their values are secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import UNSET

from car_rpc.errors import CarError
from car_rpc.wire.models import OpenAICompatSource

#: RFC 9110: a token; and what a field's value may hold, of which only ASCII is portable.
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")

#: A shorter value of a header is no secret, and to mask it would garble what a server says.
_SHORTEST_SECRET = 4


class Headers(NamedTuple):
    """What a request is sent with.

    Attributes:
        fields: Names in lower case, and values.
        secrets: Values that must not be repeated anywhere.
    """

    fields: dict[str, str]
    secrets: tuple[str, ...]


def headers_of(source: OpenAICompatSource, environ: Mapping[str, str]) -> Headers:
    """The headers for a source; keys and headers are read from the environment now.

    An empty key sends no ``Authorization``.

    Raises:
        CarError: ``unauthorized`` for a variable that is not set, ``invalid_request`` for a
            header that cannot be sent. Neither repeats a value.
    """
    fields = {"accept": "text/event-stream, application/json", "content-type": "application/json"}
    secrets: list[str] = []
    key = _key(source, environ)
    if key:
        fields["authorization"] = _sendable("the API key", f"Bearer {key}")
        secrets.append(key)
    given = source.headers if isinstance(source.headers, dict) else {}
    for name, value in given.items():
        if not _NAME.fullmatch(name):
            raise CarError("invalid_request", f"{name[:100]!r} is no name of a header")
        text = value if isinstance(value, str) else _variable(value.env, environ)
        fields[name.lower()] = _sendable(f"the header {name}", text)
        secrets += [text, text.removeprefix("Bearer ")]
    return Headers(fields, tuple(each for each in secrets if len(each) >= _SHORTEST_SECRET))


def has_key(source: OpenAICompatSource, environ: Mapping[str, str]) -> bool:
    """Whether a key is there, or none is needed."""
    names = _key_names(source)
    return not names or any(name in environ for name in names)


def _key(source: OpenAICompatSource, environ: Mapping[str, str]) -> str:
    names = _key_names(source)
    if names and not has_key(source, environ):
        raise CarError("unauthorized", f"no API key: set the environment variable {names[0]}")
    # A variable may hold several keys; which of them is used is not chosen yet.
    keys = (key.strip() for name in names for key in environ.get(name, "").split(","))
    return next((key for key in keys if key), "")


def _key_names(source: OpenAICompatSource) -> list[str]:
    first = [] if source.api_key_env is UNSET else [source.api_key_env]
    return [*first, *([] if source.api_key_envs is UNSET else source.api_key_envs)]


def _variable(name: str, environ: Mapping[str, str]) -> str:
    try:
        return environ[name]
    except KeyError:
        detail = f"a header needs the environment variable {name}, which is not set"
        raise CarError("unauthorized", detail) from None


def _sendable(what: str, value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise CarError("invalid_request", f"{what} has characters that no header can carry")
    return value
