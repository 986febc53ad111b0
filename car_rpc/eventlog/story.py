"""What the log tells of a request is whole and makes sense: the rules, and a check of them. Pure.

A story is all events of one request, in order. Its vocabulary is described in
``spec/PROTOCOL.md``; a type that is not known here is no fault, because later versions add some.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from car_rpc.wire.log import LogEvent

#: What each type has in its data. Where a value may be left out for privacy, it is a size instead.
MEMBERS: dict[str, tuple[str, ...]] = {
    "session_start": ("version",),
    "session_end": ("reason",),
    "log_truncated": ("lost",),
    "model_load": ("model", "pid", "engine"),
    "worker_crash": ("model", "reason"),
    "request": ("request_id", "method", "params", "privacy"),
    "route": ("model", "reason", "fallbacks"),
    "resumed": ("resumed_trace_id",),
    "attempt": ("model",),
    "deltas": ("events", "at_ms"),
    "interruption": ("cause", "bytes_received"),
    "recovery": ("cause", "plan"),
    "fallback": ("model", "kind"),
    "completion": ("outcome",),
}

#: What tells of the attempt before it.
_OF_AN_ATTEMPT = frozenset({"interruption", "recovery"})


def problems(story: Sequence[LogEvent]) -> Iterator[str]:
    """Everything that is wrong with a story; nothing for a good one.

    A story without its end is one whose process died: nothing is said of how it ended.

    Args:
        story: All events of one trace, oldest first.
    """
    for event in story:
        for name in MEMBERS.get(event.type, ()):
            if name not in event.data:
                yield f"event {event.seq}: `{event.type}` has no `{name}`"
    yield from _order(story)
    yield from _attempts(story)
    if not any(event.type == "log_truncated" for event in story):
        yield from _text(story)


def _order(story: Sequence[LogEvent]) -> Iterator[str]:
    if not story or story[0].type != "request":
        yield "it does not begin with `request`"
        return
    for before, event in pairwise(story):
        if event.seq <= before.seq:
            yield f"event {event.seq} stands behind {before.seq}"
        if event.session_id != before.session_id:
            yield f"event {event.seq} is of another session"
        if event.type == "request":
            yield f"event {event.seq} is a second `request`"
        if before.type == "completion":
            yield f"event {event.seq} comes after the end"
    if story[-1].type == "completion":
        yield from _end(story[-1])


def _end(completion: LogEvent) -> Iterator[str]:
    data = completion.data
    match data.get("outcome"):
        case "success":
            if "error" in data:
                yield "a success has an error"
            if not {"result", "result_bytes"} & data.keys():
                yield "a success has no result"
        case "failed":
            if not isinstance(data.get("kind"), str) or "error" not in data:
                yield "a failure has no kind or no error"
        case other:
            yield f"the outcome is {other!r}"


def _attempts(story: Sequence[LogEvent]) -> Iterator[str]:
    """They count from 1, after a route, and each event names the one that it belongs to."""
    current = 0
    routed = False
    for event in story:
        routed = routed or event.type == "route"
        if event.type == "attempt":
            current += 1
            if not routed:
                yield f"event {event.seq}: an attempt comes before the route"
        elif event.type in _OF_AN_ATTEMPT and not current:
            yield f"event {event.seq}: `{event.type}` comes before any attempt"
        attempt = event.attempt if isinstance(event.attempt, int) else 0
        if attempt != current:
            yield f"event {event.seq} is of attempt {attempt}, which is {current} by now"


def _text(story: Sequence[LogEvent]) -> Iterator[str]:
    """The deltas are the text of the result."""
    completion = story[-1].data if story else {}
    result = completion.get("result")
    if completion.get("outcome") != "success" or not isinstance(result, dict):
        return
    text = cast("dict[str, Any]", result).get("text")
    if not isinstance(text, str) or "[redacted:" in text:
        return  # left out for privacy, or replaced in parts that do not end where deltas do
    told = ""
    for delta in _deltas(story):
        match delta:
            case {"type": "text_delta", "text": str(more)}:
                told += more
            case {"type": "stream_reset"}:
                told = ""
            case _:
                pass
    if told != text:
        yield f"the deltas say {told[-80:]!r} at the end, the result {text[-80:]!r}"


def _deltas(story: Sequence[LogEvent]) -> Iterator[Any]:
    for event in story:
        events = event.data.get("events")
        if event.type == "deltas" and isinstance(events, list):
            yield from cast("list[Any]", events)  # type: ignore[redundant-cast]  # pyright needs it
