"""What one request asked and got, as the event log tells it, so that it can be shown again. Pure.

Everything is what was on the wire: the events of the stream one by one, the result or the error.
Whatever of it was replaced before it was written stays replaced, and :attr:`Recorded.redacted`
says so.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from car_rpc.errors import CarError
from car_rpc.eventlog.story import problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from car_rpc.wire.log import LogEvent

#: A JSON object. A number in it that could not be read exactly is a ``msgspec.Raw``, so that the
#: object is written as it was.
JsonObject: TypeAlias = dict[str, Any]


class RecordedEvent(NamedTuple):
    """An event of the stream.

    Attributes:
        at_ms: When it came, in milliseconds from the request; never before the one before.
        event: The event, as it is in ``generate.event``.
    """

    at_ms: float
    event: JsonObject


class Answer(NamedTuple):
    """How a request was answered: with one of both.

    Attributes:
        result: The result.
        error: The error: ``code``, ``message`` and ``data``.
    """

    result: Any = None
    error: JsonObject | None = None


class Recorded(NamedTuple):
    """A request as the event log has it.

    Attributes:
        trace_id: Its trace.
        method: Its method.
        params: The client's own JSON, with files that it named replaced by their content.
        answer: How it was answered, or ``None`` when its process died before, or it still runs.
        answered_ms: When that was, in milliseconds from the request.
        events: Its stream, with its one end where there is an answer; also where nobody asked for
            the stream. Empty for methods that have none.
        resumed_trace_id: The request that it went on from.
        redacted: Whether something in all of this was replaced before it was written.
        lacks_media: Whether files of the log with what it sent are missing, so that ``params`` have
            their hashes instead.
    """

    trace_id: str
    method: str
    params: JsonObject
    answer: Answer | None
    answered_ms: float
    events: list[RecordedEvent]
    resumed_trace_id: str | None
    redacted: bool
    lacks_media: bool = False

    def answered(self) -> Answer:
        """How it was answered.

        Raises:
            CarError: ``not_replayable``: it was not.
        """
        if self.answer is None:
            reason = "it has no answer: it still runs, or its process died"
            raise _not_replayable(self.trace_id, reason)
        return self.answer


def recorded(trace_id: str, story: Sequence[LogEvent]) -> Recorded:
    """What a request asked and got.

    Args:
        trace_id: Its trace.
        story: All of its events in the log, in order.

    Raises:
        CarError: ``not_found`` without any event; ``not_replayable`` when only its metadata were
            kept, or some of its events are missing.
    """
    if not story:
        detail = f"the event log has nothing of trace {trace_id!r}; it may have been deleted"
        raise CarError("not_found", detail, trace_id=trace_id)
    for problem in problems(story):
        raise _not_replayable(trace_id, f"the event log has not all of it: {problem}")
    if story[0].data["privacy"] == "metadata":
        raise _not_replayable(trace_id, "only metadata were kept")
    try:
        return _read(trace_id, story)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # Only what was imported, or written past the log, is not as the log writes it.
        reason = f"the event log is malformed: {type(error).__name__}"
        raise _not_replayable(trace_id, reason) from error


def _read(trace_id: str, story: Sequence[LogEvent]) -> Recorded:
    request, end = story[0], story[-1]
    answer = _answer(trace_id, end.data) if end.type == "completion" else None
    method = request.data["method"]
    answered_ms = _passed_ms(request, end)
    events = [*_in_order(_events(story))] if method == "generate" else []
    if answer is not None and method == "generate":
        answered_ms = max(answered_ms, events[-1].at_ms if events else 0.0)
        events.append(RecordedEvent(answered_ms, _last_event(answer)))
    resumed = (e.data["resumed_trace_id"] for e in story if e.type == "resumed")
    return Recorded(
        trace_id=trace_id,
        method=method,
        params=request.data["params"],
        answer=answer,
        answered_ms=answered_ms,
        events=events,
        resumed_trace_id=next(resumed, None),
        redacted=any(event.data.get("redacted") is True for event in story),
        lacks_media=bool(request.data.get("blobs")),
    )


def _answer(trace_id: str, completion: JsonObject) -> Answer:
    if "error" in completion:
        return Answer(error=completion["error"])
    if "result" not in completion:
        raise _not_replayable(trace_id, "its result was too long to be kept")
    return Answer(result=completion["result"])


def _events(story: Sequence[LogEvent]) -> Iterator[RecordedEvent]:
    for logged in story:
        if logged.type == "attempt":
            told = {name: logged.data[name] for name in ("model", "reason") if name in logged.data}
            attempt: JsonObject = {"attempt": logged.attempt, "trace_id": logged.trace_id}
            yield RecordedEvent(
                _passed_ms(story[0], logged), JsonObject(type="attempt", **attempt, **told)
            )
        elif logged.type == "deltas":
            for at_ms, event in zip(logged.data["at_ms"], logged.data["events"], strict=True):
                yield RecordedEvent(at_ms, event)


def _in_order(events: Iterator[RecordedEvent]) -> Iterator[RecordedEvent]:
    """The events, none before the one before: what tells their times are two clocks."""
    latest_ms = 0.0
    for at_ms, event in events:
        latest_ms = max(latest_ms, at_ms)
        yield RecordedEvent(latest_ms, event)


def _last_event(answer: Answer) -> JsonObject:
    if answer.error is not None:
        error = answer.error
        return {"type": "error", "kind": error["data"]["kind"], "message": error["message"]}
    result = answer.result
    return {"type": "done", "text": result["text"], "tool_calls": result["tool_calls"]}


def _not_replayable(trace_id: str, reason: str) -> CarError:
    return CarError("not_replayable", f"{trace_id}: {reason}", trace_id=trace_id)


def _passed_ms(since: LogEvent, event: LogEvent) -> float:
    passed = datetime.fromisoformat(event.ts) - datetime.fromisoformat(since.ts)
    return max(0.0, passed / timedelta(milliseconds=1))
