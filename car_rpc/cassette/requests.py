"""What of a request a cassette keeps, which is also what another one must have to be the same."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
from msgspec import NODEFAULT, UNSET

from car_rpc.eventlog.redact import JsonObject, JsonValue, redact
from car_rpc.eventlog.shapes import KNOWN, Secrets

#: Reads a file that a request names; ``None`` when it cannot.
ReadFile: TypeAlias = Callable[[str], bytes | None]

#: Parameters that differ from run to run of one test, or do not change the answer.
VOLATILE = frozenset(
    {
        "client_ref",
        "conversation_id",
        "keep_alive_ms",
        "privacy",
        "progress_token",
        "resume_trace_id",
        "timeout_ms",
    }
)

#: Differs from run to run wherever it stands.
_TRACE_ID = "trace_id"

#: Larger numbers have no fractions, and some readers of JSON do not hold them exactly.
_EXACT = 2**53


def normalised(
    raw_params: bytes, params_type: Any, read: ReadFile, secrets: Secrets = KNOWN
) -> JsonValue:
    """A request's parameters without what does not make it another request, and without secrets.

    Volatile members and those that say the default are left out, a number has one form, and media
    are their hash (``{"type": "blob", "sha256": …}``), wherever they came from. To do it again
    changes nothing.

    Args:
        raw_params: The client's own JSON.
        params_type: Type of the method's parameters.
        read: Reads the files that are named.
        secrets: What is replaced in texts.
    """
    try:
        value: JsonValue = msgspec.json.decode(raw_params)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Nothing that a method takes; it is answered with an error.
        return secrets.replace(raw_params.decode(errors="replace"))
    value = _plain(_with_recording(value, read) if isinstance(value, dict) else value, read)
    if isinstance(value, dict):
        value = _without_defaults(value, params_type)
    return redact(value, secrets)


def key_of(method: str, params: JsonValue) -> bytes:
    """What is equal for equal requests, from their normalised parameters."""
    return msgspec.json.encode([method, params], order="sorted")


def _without_defaults(value: JsonObject, params_type: Any) -> JsonObject:
    defaults = _defaults(params_type)
    return {
        name: item
        for name, item in value.items()
        if name not in VOLATILE and not (name in defaults and _same(item, defaults[name]))
    }


def _defaults(params_type: Any) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in msgspec.structs.fields(params_type):
        if field.default not in (NODEFAULT, UNSET):
            found[field.encode_name] = field.default
        elif field.default_factory in (list, dict):
            found[field.encode_name] = field.default_factory()
    return found


def _same(item: JsonValue, default: object) -> bool:
    return type(item) is type(default) and item == default


def _with_recording(value: JsonObject, read: ReadFile) -> JsonObject:
    """The parameters with the recording that ``transcribe`` is given, however that came."""
    match value:
        case {"audio_b64": {"sha256": str(digest)}}:  # as the event log keeps it
            blob, name = _named(digest), "audio_b64"
        case {"audio_b64": str(text)} if (data := _decoded(text)) is not None:
            blob, name = _blob(data), "audio_b64"
        case {"audio_path": str(path)} if (data := read(path)) is not None:
            blob, name = _blob(data), "audio_path"
        case _:
            return value
    return {**{other: item for other, item in value.items() if other != name}, "audio": blob}


def _plain(value: JsonValue, read: ReadFile) -> JsonValue:
    match value:
        case dict() if (medium := _medium(value, read)) is not None:
            return medium
        case dict():
            return {name: _plain(item, read) for name, item in value.items() if name != _TRACE_ID}
        case list():
            return [_plain(item, read) for item in value]
        case float() if value.is_integer() and abs(value) < _EXACT:
            return int(value)
        case _:
            return value


def _medium(value: JsonObject, read: ReadFile) -> JsonObject | None:
    """What stands for the source of an image or the like."""
    match value:
        case {"type": "base64", "data": str(text)} if (data := _decoded(text)) is not None:
            return _blob(data)
        case {"type": "path", "path": str(path)} if (data := read(path)) is not None:
            return _blob(data)
        case {"type": "blob", "sha256": str(digest)}:
            return _named(digest)
        case _:
            return None


def _blob(data: bytes) -> JsonObject:
    return _named(hashlib.sha256(data).hexdigest())


def _named(digest: str) -> JsonObject:
    return {"type": "blob", "sha256": digest}


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
