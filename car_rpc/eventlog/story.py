"""What the log tells of a request is whole and makes sense: the rules, and a check of them. Pure.

A story is all events of one request, in order. Its vocabulary is described in
``spec/PROTOCOL.md``; a type that is not known here is no fault, because later versions add some.
"""

from __future__ import annotations

from collections import Counter
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
    "model_unload": ("model", "pid"),
    "worker_crash": ("model", "reason"),
    "request": ("request_id", "method", "params", "privacy"),
    "policy": ("rule_id", "action", "decision", "subject"),
    "routing_inputs": ("hash",),
    "route": ("model", "reason", "fallbacks"),
    "resumed": ("resumed_trace_id",),
    "attempt": ("model",),
    "breaker": ("model", "state"),
    "skipped": ("model", "breaker"),
    "spend_reserved": ("model", "usd"),
    "key_selected": ("name", "index", "hash"),
    "runner_request": ("call_id", "hint"),
    "first_token": ("after_ms",),
    "deltas": ("events", "at_ms"),
    "runner_return": ("call_id", "outcome", "items"),
    "usage": (),
    "spend_settled": ("model", "charged_usd", "cost_usd"),
    "failure": ("kind", "error"),
    "continues": ("model", "can"),
    "interruption": ("cause", "bytes_received"),
    "recovery": ("cause", "plan"),
    "fallback": ("model", "kind"),
    "tool_call": ("call",),
    "cancel_requested": (),
    "cancel_observed": (),
    "completion": ("outcome",),
}

#: What tells of the attempt before it.
_OF_AN_ATTEMPT = frozenset(
    {
        "continues",
        "failure",
        "first_token",
        "interruption",
        "key_selected",
        "recovery",
        "runner_request",
        "runner_return",
        "tool_call",
    }
)

#: What is told once at most.
_ONCE = frozenset({"cancel_observed", "cancel_requested", "first_token", "route"})

#: What opens something, what closes it, and by which member they know each other.
_PAIRS = (("runner_request", "runner_return", "call_id"), ("spend_reserved", "spend_settled", ""))


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
    yield from _counts(story)
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


def _counts(story: Sequence[LogEvent]) -> Iterator[str]:
    """What happens once happens once, and what was opened is closed."""
    is_whole = story[-1].type == "completion" if story else False
    counts = Counter(event.type for event in story)
    for name in sorted(_ONCE):
        if counts[name] > 1:
            yield f"there are {counts[name]} `{name}`"
    if counts["cancel_observed"] and is_whole and story[-1].data.get("kind") != "cancelled":
        yield "a cancel was observed, and the outcome is another"
    for opening, closing, member in _PAIRS:
        opened = Counter(e.data.get(member) for e in story if e.type == opening)
        closed = Counter(e.data.get(member) for e in story if e.type == closing)
        if closed - opened:
            yield f"there is a `{closing}` without `{opening}`"
        if is_whole and opened - closed:
            yield f"there is a `{opening}` without `{closing}`"


def _text(story: Sequence[LogEvent]) -> Iterator[str]:
    """The deltas are the text of the result; a transcript has none."""
    if not story or story[0].data.get("method") != "generate":
        return
    completion = story[-1].data if story else {}
    result = completion.get("result")
    if completion.get("outcome") != "success" or not isinstance(result, dict):
        return
    result = cast("dict[str, Any]", result)
    text = result.get("text")
    # A cassette has what was on the wire, and nothing of how it came about.
    is_whole = any(event.type == "attempt" for event in story)
    if isinstance(text, str) and is_whole:
        yield from _calls(story, result.get("tool_calls") or [])
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


def _calls(story: Sequence[LogEvent], called: Sequence[Any]) -> Iterator[str]:
    """The tool calls are those of the result."""
    told = [event.data.get("call") for event in story if event.type == "tool_call"]
    if told != called:
        yield f"there are {len(told)} tool calls, and the result has others: {len(called)}"


def _deltas(story: Sequence[LogEvent]) -> Iterator[Any]:
    for event in story:
        events = event.data.get("events")
        if event.type == "deltas" and isinstance(events, list):
            yield from cast("list[Any]", events)  # type: ignore[redundant-cast]  # pyright needs it
