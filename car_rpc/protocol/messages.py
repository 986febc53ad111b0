"""JSON-RPC 2.0 messages: what a frame holds, and how ours are written.

Params and results stay raw JSON here; whoever knows their type decodes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from car_rpc.errors import CarError
from car_rpc.protocol.depth import deeper_than
from car_rpc.protocol.framing import PREFIX_BYTES
from car_rpc.protocol.limits import MAX_BATCH, MAX_DEPTH
from car_rpc.protocol.salvage import recover_id, usable_id
from car_rpc.wire.base import MAX_SAFE_INTEGER, RequestId


class ErrorObject(msgspec.Struct, frozen=True, kw_only=True):
    """The ``error`` member of a response (JSON-RPC 2.0, section 5.1)."""

    code: int
    message: str
    data: Any = None


class Request(msgspec.Struct, frozen=True, gc=False):
    """Their request: it gets exactly one response."""

    id: RequestId
    method: str
    params: bytes


class Notification(msgspec.Struct, frozen=True, gc=False):
    """A message without an id: it gets no response."""

    method: str
    params: bytes


class Response(msgspec.Struct, frozen=True):
    """Their answer to a request of ours."""

    id: RequestId | None
    result: bytes
    error: ErrorObject | None


class Violation(msgspec.Struct, frozen=True):
    """A message that breaks the protocol, and the error that answers it."""

    id: RequestId | None
    error: CarError


Message: TypeAlias = Request | Notification | Response | Violation


class Batch(msgspec.Struct, frozen=True):
    """Several messages in one array (JSON-RPC 2.0, section 6)."""

    messages: list[Message]


class _Envelope(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    jsonrpc: Literal["2.0"]
    id: Annotated[int, Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)] | str | UnsetType | None = (
        UNSET
    )
    method: str | UnsetType = UNSET
    params: Raw = Raw(b"{}")
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class _Members(msgspec.Struct, frozen=True):
    """What of an object tells whom an answer to it is for, whatever else is wrong."""

    id: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


_decode_error = msgspec.json.Decoder(ErrorObject).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_frame: Callable[[bytes], _Envelope | list[Raw]] = msgspec.json.Decoder(
    _Envelope | list[Raw]
).decode
_decode_members = msgspec.json.Decoder(_Members).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_check = msgspec.json.Decoder(Raw).decode
_encode = msgspec.json.Encoder().encode


def decode(frame: bytes, max_depth: int = MAX_DEPTH) -> Message | Batch:
    """Decode one frame. Never raises: what is wrong with it becomes a Violation."""
    problem = _unparsable(frame, max_depth)
    if problem:
        return _broken(frame, problem)
    try:
        decoded = _decode_frame(frame)
    except (msgspec.DecodeError, RecursionError) as error:
        return _undecodable(frame, error)
    return _batch(decoded) if isinstance(decoded, list) else _classify(decoded)


def _batch(entries: list[Raw]) -> Batch | Violation:
    if not entries:
        return Violation(None, CarError("malformed_message", "a batch must not be empty"))
    if len(entries) > MAX_BATCH:
        detail = f"a batch holds at most {MAX_BATCH} messages, this one {len(entries)}"
        return Violation(None, CarError("malformed_message", detail))
    return Batch([_decode_one(bytes(entry)) for entry in entries])


def _unparsable(frame: bytes, max_depth: int) -> str | None:
    if not frame.isascii():
        # Raw params are not checked by msgspec, and unknown members travel on to others.
        try:
            frame.decode()
        except UnicodeDecodeError as error:
            return f"not UTF-8 (byte {error.start})"
    # Each level takes two bytes at least, else there is an end missing.
    if len(frame) > 2 * max_depth and deeper_than(frame, max_depth):
        return f"nested deeper than {max_depth} levels"
    return None


def _decode_one(data: bytes) -> Message:
    try:
        return _classify(_decode_envelope(data))
    except (msgspec.DecodeError, RecursionError) as error:
        return _undecodable(data, error)


def _undecodable(data: bytes, error: Exception) -> Message:
    if isinstance(error, msgspec.ValidationError):
        return _with_last_members(data) or _malformed(data, str(error))
    return _broken(data, str(error))


def _with_last_members(data: bytes) -> Message | None:
    """The message, if only a member that comes again did not fit: the last one of a name counts."""
    try:
        return _classify(_decode_envelope(_encode(_decode_object(data))))
    except (msgspec.DecodeError, RecursionError):
        return None


def _malformed(data: bytes, problem: str) -> Violation:
    try:
        # The envelope's decoder stopped at what does not fit; the rest may not even be JSON.
        _check(data)
    except msgspec.DecodeError as error:
        return _broken(data, str(error))
    return Violation(_id_of(data), CarError("malformed_message", problem))


def _id_of(data: bytes) -> RequestId | None:
    """The id of what is JSON and no message."""
    try:
        members = _decode_members(data)
    except msgspec.ValidationError:  # not even an object
        return None
    answer = isinstance(members.result, Raw) or isinstance(members.error, Raw)
    return usable_id(bytes(members.id)) if isinstance(members.id, Raw) and not answer else None


def _broken(data: bytes, problem: str) -> Violation:
    return Violation(recover_id(data[:PREFIX_BYTES]), CarError("parse_error", problem))


def _classify(envelope: _Envelope) -> Message:
    request_id, method = envelope.id, envelope.method
    answered = envelope.result is not UNSET or envelope.error is not UNSET
    if method is not UNSET and not answered:
        params = bytes(envelope.params)
        if params == b"null":  # as many encoders write "no parameters"
            params = b"{}"
        if request_id is UNSET:
            return Notification(method, params)
        if request_id is None:
            return Violation(None, CarError("malformed_message", "the id must not be null"))
        return Request(request_id, method, params)
    if answered and method is UNSET and request_id is not UNSET:
        error = _present(envelope.error)
        result = _present(envelope.result) or b"null"
        return Response(request_id, result, _error_object(error) if error else None)
    detail = "a message has either a method, or an id with a result or an error"
    usable = request_id if isinstance(request_id, int | str) and not answered else None
    return Violation(usable, CarError("malformed_message", detail))


def _present(raw: Raw | UnsetType) -> bytes | None:
    """The JSON of a member, or ``None`` when it is absent or null."""
    text = bytes(raw) if isinstance(raw, Raw) else b"null"
    return None if text == b"null" else text


def _error_object(raw: bytes) -> ErrorObject:
    """Their error. One that is malformed still ends the call that it answers."""
    try:
        return _decode_error(raw)
    except msgspec.DecodeError as error:
        return ErrorObject(code=-32603, message=f"the error object is malformed: {error}")


def compact(raw: bytes) -> bytes:
    """Raw JSON of a peer without the line feeds that pretty-printing puts between tokens."""
    if b"\n" in raw or b"\r" in raw:
        return msgspec.json.format(raw, indent=-1)
    return raw


def write_request(request_id: RequestId, method: str, params: bytes) -> bytes:
    """A request of ours."""
    return b'{"jsonrpc":"2.0","id":%b,"method":%b,"params":%b}' % (
        _encode(request_id),
        _encode(method),
        params,
    )


def write_notification(method: str, params: bytes) -> bytes:
    """A notification of ours."""
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (_encode(method), params)


def write_result(request_id: RequestId, result: bytes) -> bytes:
    """The successful response to a request of theirs."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (_encode(request_id), result)


def write_error(request_id: RequestId | None, error: CarError) -> bytes:
    """The failed response to a request of theirs."""
    body = _encode({"code": error.code, "message": error.message, "data": error.data})
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (_encode(request_id), body)


def escape_line_breaks(payload: bytes) -> bytes:
    r"""Escape the characters that some line readers take for a line break.

    U+2028, U+2029 and U+0085 are legal in JSON only inside strings, so replacing their bytes
    by ``\u`` escapes keeps the value.
    """
    if payload.isascii():
        return payload
    return (
        payload.replace(b"\xe2\x80\xa8", b"\\u2028")
        .replace(b"\xe2\x80\xa9", b"\\u2029")
        .replace(b"\xc2\x85", b"\\u0085")
    )
