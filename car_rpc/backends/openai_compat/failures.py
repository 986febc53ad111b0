"""What a server's refusal means: HTTP status, headers and body in, one error out. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from car_rpc.backends.openai_compat import loose
from car_rpc.engine.interruption import interrupted
from car_rpc.errors import HTTP_STATUS_KINDS, KINDS, CarError
from car_rpc.wire.base import MAX_SAFE_INTEGER

#: How much of a server's words an error repeats, in bytes of UTF-8.
MAX_DETAIL_BYTES = 4096

#: What replaces a secret in a server's words.
MASK = "***"

#: Members that hold a cause.
_NESTING = ("error", "errors", "detail", "cause", "metadata", "raw", "message")

#: How deep causes are looked for in an error: a gateway nests one or two.
_MAX_DEPTH = 6

#: Codes and types in words, as OpenAI, Anthropic, Google and llama.cpp use them.
_KIND_OF_CODE = {
    "authentication_error": "unauthorized",
    "content_filter": "content_filtered",
    "content_policy_violation": "content_filtered",
    "context_length_exceeded": "context_overflow",
    "exceed_context_size_error": "context_overflow",
    "insufficient_quota": "rate_limited",
    "invalid_api_key": "unauthorized",
    "invalid_request_error": "invalid_request",
    "model_not_found": "model_not_found",
    "not_found_error": "model_not_found",
    "overloaded_error": "overloaded",
    "permission_denied": "unauthorized",
    "permission_error": "unauthorized",
    "rate_limit_error": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "resource_exhausted": "rate_limited",
    "unauthenticated": "unauthorized",
    "unavailable": "overloaded",
}

_OVERFLOW_TEXTS = (
    "prompt is too long",
    "context_length_exceeded",
    "context length",
    "context window",
    "available context size",
    "input is too long",
    "reduce the length",
    "too many tokens",
    "request too large",
)
_FILTER_TEXTS = (
    "content_filter",
    "content policy",
    "content management policy",
    "blocked by safety",
)
#: For failures that carry neither a status nor a known code.
_KIND_OF_TEXT = (
    ("content_filtered", _FILTER_TEXTS),
    ("context_overflow", _OVERFLOW_TEXTS),
    ("overloaded", ("overloaded",)),
    ("rate_limited", ("rate limit", "rate_limit", "429", "too many requests")),
    ("timeout", ("timeout", "timed out")),
)

#: How gateways, and httpx (the last one), speak of HTTP/2's GOAWAY.
_GOAWAY_TEXTS = ("goaway", "go_away", "going away", "connection: close", "connectionterminated")

_SERVER_ERROR = 500
_STATUS = re.compile("[45][0-9][0-9]", re.ASCII)


class Cause(NamedTuple):
    """One error of a body and of those nested in it."""

    status: int | None
    codes: tuple[str, ...]
    message: str


def of_response(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime,
    secrets: Sequence[str] = (),
) -> CarError:
    """The error that a response without success means.

    Args:
        status: HTTP status.
        headers: Headers, with names in lower case.
        body: The body, or as much as was read of it.
        now: The time, for a ``Retry-After`` that is a date.
        secrets: What must not come out, whatever the server repeats.
    """
    causes = list(causes_of(body))
    said = causes[0].message if causes else ""
    said = said or body.decode(errors="replace") or "<no body>"
    kind = _kind(status, causes, body.decode(errors="replace"))
    data: dict[str, Any] = {"status": status}
    if kind in ("rate_limited", "overloaded"):
        wait_ms = retry_after_ms(headers, now)
        if wait_ms is not None:
            data["retry_after_ms"] = wait_ms
    return CarError(kind, f"upstream HTTP {status}: {cut(redacted(said, secrets))}", **data)


def of_stream(data: bytes, *, started: bool, secrets: Sequence[str] = ()) -> CarError:
    """The error that a server reports inside a stream, which began with a status of success.

    Args:
        data: The event's data.
        started: Whether a part of the answer was there already: then the server's own failure
            is an interruption, which may be recovered.
        secrets: What must not come out.
    """
    text = data.decode(errors="replace")
    causes = list(causes_of(data))
    kind = _kind(None, causes, text)
    status = next((cause.status for cause in reversed(causes) if cause.status), None)
    extra = {} if status is None else {"status": status}
    if started and kind == "provider_error":
        cause = cause_of(text) if status is None else f"provider_{status}"
        return interrupted(cause, **extra)
    said = (causes[0].message if causes else "") or text
    return CarError(kind, f"the server ended the stream: {cut(redacted(said, secrets))}", **extra)


def cause_of(text: str) -> str:
    """The executor contract's name for how a stream broke."""
    text = text.lower()
    return "goaway" if any(hint in text for hint in _GOAWAY_TEXTS) else "connection_reset"


def causes_of(body: bytes) -> Iterator[Cause]:
    """The errors in a JSON body, outermost first. Nothing for a body that holds none."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return
    yield from _walk(document, _MAX_DEPTH)


def _walk(value: Any, depth: int) -> Iterator[Cause]:
    if depth == 0:
        return
    if isinstance(value, str):
        if value.startswith(("{", "[")):  # a gateway's copy of the upstream's body
            yield from _decoded(value, depth)
        return
    for item in loose.items(value)[:_MAX_DEPTH]:
        yield from _walk(item, depth - 1)
    members = loose.members(value)
    cause = _cause(members)
    if cause is not None:
        yield cause
    for name in _NESTING:
        if name in members:
            yield from _walk(members[name], depth - 1)


def _decoded(text: str, depth: int) -> Iterator[Cause]:
    try:
        yield from _walk(msgspec.json.decode(text), depth - 1)
    except (msgspec.DecodeError, RecursionError):
        return


def _cause(members: dict[str, Any]) -> Cause | None:
    numbers = [_status(members.get(name)) for name in ("status", "status_code", "code")]
    words = [members.get(name) for name in ("code", "type", "status")]
    codes = tuple(word.lower() for word in words if isinstance(word, str))
    said = [members.get(name) for name in ("message", "detail", "error")]
    message = next((text for text in said if isinstance(text, str)), "")
    status = next((number for number in numbers if number), None)
    return Cause(status, codes, message) if status or codes or message else None


def _status(value: Any) -> int | None:
    if isinstance(value, str) and _STATUS.fullmatch(value):
        return int(value)
    return value if isinstance(value, int) and _STATUS.fullmatch(str(value)) else None


def _kind(status: int | None, causes: Sequence[Cause], text: str) -> str:
    """The kind of the innermost cause that says more than the response's own status.

    A gateway's 502 around a 403 is a 403; a 429 stays one, whatever its body quotes.
    """
    outer = None if status is None else HTTP_STATUS_KINDS.get(status, "provider_error")
    if status is None or status >= _SERVER_ERROR:
        for cause in reversed(causes):
            kind = _kind_of_cause(cause)
            vague = outer in (None, "provider_error")
            if kind is not None and (vague or not KINDS[kind].retryable):
                return kind
    if outer is None:
        return _by_text(text) or "provider_error"
    return _refined(outer, causes, text)


def _kind_of_cause(cause: Cause) -> str | None:
    if cause.status is not None:
        kind = HTTP_STATUS_KINDS.get(cause.status, "provider_error")
        return _refined(kind, [cause], cause.message)
    return next((_KIND_OF_CODE[code] for code in cause.codes if code in _KIND_OF_CODE), None)


def _refined(kind: str, causes: Sequence[Cause], text: str) -> str:
    """What a 400 really is: servers put several things behind it."""
    if kind != "invalid_request":
        return kind
    codes = [code for cause in causes for code in cause.codes]
    for code in codes:
        named = _KIND_OF_CODE.get(code)
        if named in ("content_filtered", "context_overflow", "model_not_found"):
            return named
    lowered = text.lower()
    if any(hint in lowered for hint in _FILTER_TEXTS):
        return "content_filtered"
    return "context_overflow" if any(hint in lowered for hint in _OVERFLOW_TEXTS) else kind


def _by_text(text: str) -> str | None:
    lowered = text.lower()
    for kind, hints in _KIND_OF_TEXT:
        if any(hint in lowered for hint in hints):
            return kind
    return None


def retry_after_ms(headers: Mapping[str, str], now: datetime) -> int | None:
    """How long the server asks to wait, in milliseconds: seconds, or until a date.

    Returns:
        ``None`` when it does not say, or not in a form that is known.
    """
    wait_ms = _number(headers.get("retry-after-ms"))
    if wait_ms is None:
        text = headers.get("retry-after")
        seconds = _number(text)
        if seconds is None:
            seconds = _until(text, now)
        wait_ms = None if seconds is None else seconds * 1000
    return None if wait_ms is None else int(min(max(wait_ms, 0), MAX_SAFE_INTEGER))


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _until(text: str | None, now: datetime) -> float | None:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - too slow for every start

    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return (date - now).total_seconds()


def redacted(text: str, secrets: Sequence[str]) -> str:
    """The text without the secrets."""
    # The longest first: one may contain another.
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def cut(text: str, max_bytes: int = MAX_DETAIL_BYTES) -> str:
    """The beginning of a text, at most so many bytes of UTF-8, in whole characters."""
    return text.encode(errors="replace")[:max_bytes].decode(errors="ignore")
