"""The file of a cassette: lines of JSON, as an export of the event log has them.

A request is a line ``request``, ``deltas`` with its stream, and ``completion``. Their ``seq``
counts within the request, so that one more in the middle of the file changes no other line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from car_rpc.cassette.interaction import Asked, Interaction
from car_rpc.cassette.requests import normalised
from car_rpc.errors import KINDS, CarError
from car_rpc.eventlog.recorded import Recorded, recorded
from car_rpc.eventlog.redact import redact_json
from car_rpc.eventlog.shapes import NONE, Secrets
from car_rpc.eventlog.stream import StreamRedactor
from car_rpc.eventlog.times import to_text
from car_rpc.wire.base import RequestId, decode_object
from car_rpc.wire.events import Done, ErrorEvent, StreamEvent, StreamReset, TextDelta
from car_rpc.wire.log import LogEvent
from car_rpc.wire.methods import METHODS

#: Most events of a stream in one line.
EVENTS_PER_LINE = 64

_decode_event = msgspec.json.Decoder(LogEvent).decode
_encode = msgspec.json.Encoder().encode


class Written(NamedTuple):
    """What the file holds.

    Attributes:
        head: The line ``session_start``, if there is one, and its data.
        interactions: The requests that were answered, in the order in which they came.
    """

    head: tuple[bytes, dict[str, Any]] | None
    interactions: list[Interaction]


class Captured(NamedTuple):
    """A request that was run and answered.

    Attributes:
        request_id: The client's id of it.
        asked: What was asked.
        started: When.
        events: Its stream, with the milliseconds since then.
        answer: The encoded result, or the error.
        answered_ms: When that was, in milliseconds since the request.
    """

    request_id: RequestId
    asked: Asked
    started: datetime
    events: Sequence[tuple[float, StreamEvent]]
    answer: bytes | CarError
    answered_ms: float


class _Line(msgspec.Struct, frozen=True):
    """An event of the log, whose data is passed on as it is."""

    seq: int
    ts: str
    session_id: str
    trace_id: str | None
    type: str
    data: Raw


def read(lines: Iterable[bytes], name: str, secrets: Secrets) -> Written:
    """What a cassette holds, or an export.

    Args:
        lines: Its lines; empty ones are skipped.
        name: Its name, for errors.
        secrets: What is replaced in requests before they are compared.

    Raises:
        CarError: ``io_error``, which names the line that is no event, or the request of which too
            little was kept.
    """
    head = None
    stories: dict[str, list[LogEvent]] = {}
    raw_lines: dict[str, list[bytes]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        event = _event(line, number, name)
        if event.trace_id is not None:
            stories.setdefault(event.trace_id, []).append(event)
            raw_lines.setdefault(event.trace_id, []).append(line.rstrip(b"\r\n"))
        elif event.type == "session_start" and head is None:
            head = (line.rstrip(b"\r\n"), event.data)
    interactions: list[Interaction] = []
    for trace_id, story in stories.items():
        try:
            each = recorded(trace_id, story)
        except CarError as error:
            raise _unreadable(name, error.message) from None
        if each.answer is not None:
            interactions.append(_interaction(each, raw_lines[trace_id], name, secrets))
    return Written(head, interactions)


def head_line(session_id: str, now: datetime, data: dict[str, Any]) -> bytes:
    """The first line, which says what the process was."""
    return _line(1, to_text(now), session_id, None, "session_start", _encode(data))


def interaction(
    captured: Captured, session_id: str, trace_id: str, secrets: Secrets
) -> Interaction:
    """A request that was answered, as it will be read from the file.

    Args:
        captured: The request.
        session_id: Of the process that ran it.
        trace_id: Its trace, which no other request of the cassette has.
        secrets: What is replaced in it.
    """
    lines: list[bytes] = []
    for type_, at_ms, data in _rows(captured, secrets):
        ts = to_text(captured.started + timedelta(milliseconds=at_ms))
        lines.append(_line(len(lines) + 1, ts, session_id, trace_id, type_, data))
    return read(lines, "that is being recorded", secrets).interactions[0]


def _rows(captured: Captured, secrets: Secrets) -> Iterator[tuple[str, float, bytes]]:
    request = {
        "request_id": captured.request_id,
        "method": captured.asked.method,
        "params": captured.asked.params,
        "privacy": "redacted",
    }
    yield "request", 0.0, _encode(request)
    events, changed = _redacted(captured.events or _collected(captured), secrets)
    for begin in range(0, len(events), EVENTS_PER_LINE):
        part = events[begin : begin + EVENTS_PER_LINE]
        data: dict[str, Any] = {
            "events": [event for _, event in part],
            "at_ms": [round(at_ms) for at_ms, _ in part],
        }
        if changed:
            data["redacted"] = True
        yield "deltas", part[-1][0], redact_json(_encode(data), NONE)
    end = redact_json(_encode(_completion(captured, _text(events) if changed else None)), secrets)
    yield "completion", captured.answered_ms, end


def _completion(captured: Captured, text: str | None) -> dict[str, Any]:
    answer = captured.answer
    if isinstance(answer, CarError):
        error = {"code": answer.code, "message": answer.message, "data": answer.data}
        return {"outcome": "failed", "kind": answer.kind, "error": error}
    if captured.asked.method != "generate":
        return {"outcome": "success", "result": Raw(answer)}
    result = decode_object(answer)
    result.pop("client_ref", None)  # each request gets its own
    if text is not None:
        result["text"] = text
    return {"outcome": "success", "result": result}


def _collected(captured: Captured) -> list[tuple[float, StreamEvent]]:
    """What an answer without a stream would have said in one, so that its story is whole."""
    if captured.asked.method != "generate" or isinstance(captured.answer, CarError):
        return []
    text = decode_object(captured.answer)["text"]
    return [(captured.answered_ms, TextDelta(text=text))] if text else []


def _redacted(
    events: Sequence[tuple[float, StreamEvent]], secrets: Secrets
) -> tuple[list[tuple[float, StreamEvent]], bool]:
    """The stream without its end, which is told by the answer, and whether it was changed."""
    told = [(at, event) for at, event in events if not isinstance(event, Done | ErrorEvent)]
    redactor = StreamRedactor(secrets)
    known = redactor.push_all([event for _, event in told])
    changed = redactor.changed
    known += redactor.end()
    times = (at_ms for at_ms, _ in told)
    return [*zip(times, known, strict=True)], changed or redactor.changed


def _text(events: Sequence[tuple[float, StreamEvent]]) -> str:
    """What the deltas add up to."""
    text: list[str] = []
    for _, event in events:
        match event:
            case TextDelta():
                text.append(event.text)
            case StreamReset():
                text.clear()
            case _:
                pass
    return "".join(text)


def _line(
    seq: int, ts: str, session_id: str, trace_id: str | None, type_: str, data: bytes
) -> bytes:
    return _encode(_Line(seq, ts, session_id, trace_id, type_, Raw(data)))


def _event(line: bytes, number: int, name: str) -> LogEvent:
    try:
        event = _decode_event(line)
        # Its numbers may be longer than Python's.
        data = decode_object(bytes(msgspec.json.decode(line, type=_Line).data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(name, f"line {number} is no event: {error}") from None
    return msgspec.structs.replace(event, data=data)


def _interaction(
    each: Recorded, lines: Sequence[bytes], name: str, secrets: Secrets
) -> Interaction:
    method = METHODS.get(each.method)
    if method is None:
        raise _unreadable(name, f"there is no method {each.method!r}; update car-rpc")
    answer = each.answered()
    if answer.error is not None and answer.error["data"]["kind"] not in KINDS:
        raise _unreadable(name, "it has an error of an unknown kind; update car-rpc")
    params = normalised(_encode(each.params), method.params, _no_file, secrets)
    return Interaction(Asked(each.method, params), each, tuple(lines))


def _no_file(_: str) -> bytes | None:
    """The files that a recorded request named are long gone."""
    return None


def _unreadable(name: str, reason: str) -> CarError:
    return CarError("io_error", f"the cassette {name}: {reason}; record it again")
