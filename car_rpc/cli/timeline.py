"""The event log for people. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, cast

import msgspec
from msgspec import UNSET

from car_rpc.wire.log import LogEvent

#: Width of a line in the terminal, in characters.
LINE_CHARS = 160


def line(event: LogEvent) -> str:
    """An event in a list of all kinds."""
    data = msgspec.json.encode(event.data).decode()
    return shortened(f"{event.seq:>6} {event.ts} {event.trace_id or '-':19} {event.type:16} {data}")


def timeline(story: Sequence[LogEvent]) -> Iterator[str]:
    """A request from its beginning to its end, one line for each event, with the time since then.

    Args:
        story: All events of the request, oldest first.
    """
    if not story:
        return
    first = story[0]
    about = [str(first.trace_id), str(first.data.get("method", "")), first.session_id]
    if first.conversation_id is not UNSET:
        about.append(f"conversation {first.conversation_id}")
    yield shortened("  ".join([*about, first.ts]))
    began = datetime.fromisoformat(first.ts)
    for event in story:
        since_ms = (datetime.fromisoformat(event.ts) - began).total_seconds() * 1000
        attempt = f"#{event.attempt}" if event.attempt is not UNSET else ""
        yield shortened(f"{since_ms:>9.0f} ms {attempt:>3} {event.type:16} {_told(event)}".rstrip())
    if story[-1].type != "completion":
        yield "          it runs still, or its process was killed"


def shortened(text: str) -> str:
    """One line of the terminal: nothing in it moves the cursor or changes the order of reading."""
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text[: 2 * LINE_CHARS]
    )
    return shown if len(shown) <= LINE_CHARS else shown[: LINE_CHARS - 1] + "…"


def _told(event: LogEvent) -> str:
    tell: Callable[[dict[str, Any]], str] = _TELLS.get(event.type, _as_json)
    return tell(event.data)


def _as_json(data: Any) -> str:
    return msgspec.json.encode(data).decode()


def _routed(data: dict[str, Any]) -> str:
    others = cast("list[Any]", data.get("fallbacks") or [])
    more = f", else {', '.join(map(str, others))}" if others else ""
    return f"{data.get('model')} ({data.get('reason')}){more}"


def _asked(params: Any) -> str:
    match params:
        case {"prompt": str(prompt)}:
            return _as_json(prompt)
        case {"messages": [*_, {"content": str(content)}]}:
            return _as_json(content)
        case _:
            return _as_json(params)


def _said(events: Any) -> str:
    if not isinstance(events, list):  # only its size was kept
        return _as_json(events)
    text, reasoning = "", ""
    others: list[str] = []
    for event in cast("list[Any]", events):  # type: ignore[redundant-cast]  # pyright needs it
        match event:
            case {"type": "text_delta", "text": str(more)}:
                text += more
            case {"type": "reasoning_delta", "text": str(more)}:
                reasoning += more
            case {"type": str(kind)} if kind not in others:
                others.append(kind)
            case _:
                pass
    parts = [f"reasons {_as_json(reasoning)}"] if reasoning else []
    parts += [_as_json(text)] if text else []
    return ", ".join([*parts, *others])


def _called(call: Any) -> str:
    match call:
        case {"name": str(name), "arguments": arguments}:
            return f"{name} {_as_json(arguments)}"
        case _:
            return _as_json(call)


def _ended(data: dict[str, Any]) -> str:
    if data.get("outcome") == "failed":
        error = data.get("error")
        message = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else None
        return f"failed: {message or data.get('kind')}"
    match data.get("result"):
        case {"model_used": model, "latency_ms": latency_ms, "stop_reason": reason}:
            return f"success, {reason}, {model}, {latency_ms:.0f} ms"
        case _:
            return "success"


_TELLS: dict[str, Callable[[dict[str, Any]], str]] = {
    "request": lambda data: _asked(data.get("params")),
    "route": _routed,
    "attempt": lambda data: " because of ".join(
        str(data[name]) for name in ("model", "reason") if name in data
    ),
    "breaker": lambda data: f"{data.get('model')} is {data.get('state')}",
    "spend_reserved": lambda data: f"${data.get('usd')} for {data.get('model')}",
    "key_selected": lambda data: f"{data.get('name')} ({data.get('hash')})",
    "runner_request": lambda data: str(data.get("hint") or data.get("call_id")),
    "first_token": lambda data: f"after {data.get('after_ms'):.0f} ms",
    "runner_return": lambda data: f"{data.get('outcome')}, {data.get('items')} items",
    "usage": lambda data: ", ".join(f"{name} {count}" for name, count in data.items()),
    "spend_settled": lambda data: f"${data.get('charged_usd')} for {data.get('model')}",
    "deltas": lambda data: _said(data.get("events")),
    "interruption": lambda data: f"{data.get('cause')} after {data.get('bytes_received')} bytes",
    "recovery": lambda data: f"{data.get('plan')} because of {data.get('cause')}",
    "fallback": lambda data: f"{data.get('model')} failed: {data.get('kind')}",
    "tool_call": lambda data: _called(data.get("call")),
    "cancel_requested": lambda _: "",
    "cancel_observed": lambda _: "the work has stopped",
    "completion": _ended,
}
