"""A whole result as the events that a stream of it would have. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from car_rpc.wire.content import ToolCall
from car_rpc.wire.events import (
    ReasoningDelta,
    Stop,
    StopReason,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    UsageEvent,
)


def collected_to_events(
    *,
    reasoning: str = "",
    text: str = "",
    tool_calls: Iterable[ToolCall] = (),
    usage: UsageEvent | None = None,
    stop_reason: StopReason | None = None,
) -> Iterator[StreamEvent]:
    """The events of a result that came in one piece, in the order in which a stream has them.

    Reasoning, text, each call with its arguments, usage, stop; nothing for what there is not.
    """
    if reasoning:
        yield ReasoningDelta(text=reasoning)
    if text:
        yield TextDelta(text=text)
    for index, call in enumerate(tool_calls):
        yield ToolCallStart(index=index, id=call.id, name=call.name)
        arguments = msgspec.json.encode(call.arguments).decode()
        yield ToolCallDelta(index=index, id=call.id, arguments_delta=arguments)
    if usage is not None:
        yield usage
    if stop_reason is not None:
        yield Stop(reason=stop_reason)
