"""The one accumulator: it turns a backend's events into a result, and normalises them.

The concatenation of the ``text_delta`` events that it passes on since the last
``stream_reset`` is the text of the result; the same holds for tool calls. What a backend
reports only at its end is passed on as events first, so this is true of every stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, cast

import msgspec
from msgspec import UNSET

from car_rpc.engine.interruption import InterruptSnapshot, PartialCall
from car_rpc.engine.overlap import OverlapRemover
from car_rpc.errors import CarError
from car_rpc.wire.content import ToolCall
from car_rpc.wire.events import (
    ContentBlockStop,
    Done,
    ErrorEvent,
    Heartbeat,
    ProviderOutputItem,
    ReasoningDelta,
    RunnerEvent,
    Stop,
    StopReason,
    StreamEvent,
    StreamReset,
    TextDelta,
    ToolCallCancel,
    ToolCallDelta,
    ToolCallStart,
    ToolParseError,
    UsageEvent,
)
from car_rpc.wire.inference import Usage

Indexed = TypeVar(
    "Indexed",
    bound=ToolCallStart | ToolCallDelta | ToolCallCancel | ContentBlockStop | ToolParseError,
)

#: Deepest nesting of a tool call's arguments: with what the protocol and the event log put around
#: them, whatever is told of them stays below the depth that peers accept.
MAX_ARGUMENTS_DEPTH = 100


#: Longest answer, in characters of text, reasoning and arguments together: nothing that a model
#: says, and far below what would hurt.
MAX_ANSWER_CHARS = 64 * 1024 * 1024


class _OpenCall:
    """A tool call whose arguments are still coming."""

    def __init__(self, start: ToolCallStart) -> None:
        self.start = start
        self.arguments: list[str] = []
        self.cancelled = False


class Accumulator:
    """Collects one request's events over all its attempts."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _OpenCall] = {}
        self._usage: dict[str, int] = {}  # of the attempt at hand
        self._used: dict[str, int] = {}  # by the attempts before
        self._room = MAX_ANSWER_CHARS
        self.provider_output_items: list[Any] = []
        self.streamed = False
        self._items_before = 0
        self.begin_attempt()

    def begin_attempt(self, *, may_repeat: bool = False) -> None:
        """Another attempt adds to what is there, of which one that gave nothing is no part.

        Args:
            may_repeat: Whether it may begin with the end of the text so far, which is then
                left out.
        """
        if not self.streamed:
            del self.provider_output_items[self._items_before :]
        self._items_before = len(self.provider_output_items)
        self._used, self._usage = self._counts(), {}
        self.stop_reason: StopReason | None = None
        self._overlap = OverlapRemover(self.text if may_repeat else "")
        self._said_text = False
        self._called_tools = False
        #: Its tool calls are counted on from those of the attempts before.
        self._first_index = max(self._calls, default=-1) + 1
        #: Whether anything of it was passed on.
        self.streamed = False

    @property
    def overlap_removed(self) -> int | None:
        """Characters that the attempt said again; ``None`` while that is not known."""
        return self._overlap.removed if self._overlap.decided else None

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        return "".join(self._reasoning)

    @property
    def usage(self) -> Usage | None:
        """Token counts of all attempts so far, or ``None`` when the backend reported none."""
        counts = self._counts()
        if not counts:
            return None
        if {"prompt_tokens", "completion_tokens"} <= counts.keys():
            # An attempt may have told its parts and no total.
            parts = counts["prompt_tokens"] + counts["completion_tokens"]
            counts["total_tokens"] = max(parts, counts.get("total_tokens", 0))
        return Usage(**counts)

    def _counts(self) -> dict[str, int]:
        counts = {n: self._used.get(n, 0) + self._usage.get(n, 0) for n in self._used | self._usage}
        if "context_window" in counts:  # a size, of which there is one
            windows = self._used, self._usage
            counts["context_window"] = max(used.get("context_window", 0) for used in windows)
        return counts

    def push(self, event: StreamEvent | RunnerEvent) -> list[StreamEvent]:
        """Take the backend's next event; returns the events to pass on.

        Raises:
            CarError: The backend reported an error, or contradicts itself
                (``inference_failed``).
        """
        match event:
            case TextDelta():
                self._said_text = self._said_text or bool(event.text)
                return self._push_text(self._overlap.push(event.text))
            case ReasoningDelta():
                return self._push_reasoning(event)
            case ToolCallStart() | ToolCallDelta() | ToolCallCancel():
                return self._push_tool_event(event)
            case Done():
                return self._fill(event)
            case ErrorEvent():
                raise error_of(event)
            case _:
                return self._noted(event)

    def snapshot(self) -> InterruptSnapshot:
        """What has arrived, after a stream broke."""
        calls = [
            PartialCall(call.start.id, call.start.name, "".join(call.arguments))
            for _, call in sorted(self._calls.items())
            if not call.cancelled
        ]
        return InterruptSnapshot.from_partials(self.text, self.reasoning, calls)

    def cancel_open_calls(self, reason: str) -> list[StreamEvent]:
        """Withdraw the tool calls that a break has cut; returns the events of it."""
        events: list[StreamEvent] = []
        for index, call in self._calls.items():
            if not call.cancelled and _is_cut(call):
                call.cancelled = True
                events.append(ToolCallCancel(index=index, id=call.start.id, reason=reason))
        return events

    def _reset(self) -> None:
        self._text.clear()
        self._reasoning.clear()
        self._calls.clear()
        self.provider_output_items.clear()
        self.begin_attempt()

    def close(self) -> list[StreamEvent]:
        """The answer is complete; returns what its events still lacked.

        A tool call whose arguments do not parse is kept as text, never dropped; a stream
        without ``stop`` gets the one that its content shows.
        """
        events = self._push_text(self._overlap.close())
        for index, call in self._calls.items():
            if call.cancelled or _arguments(call) is not None:
                continue
            call.cancelled = True
            raw = "".join(call.arguments)
            reason = "the arguments are not a JSON object"
            kept = f"{call.start.name}({raw})"
            self._text.append(kept)
            events += [
                ToolParseError(index=index, raw=raw, message=reason),
                ToolCallCancel(index=index, id=call.start.id, reason=reason),
                TextDelta(text=kept),
            ]
        if self.stop_reason is None:
            self.stop_reason = "tool_use" if self.tool_calls() else "end_turn"
            events.append(Stop(reason=self.stop_reason))
        return events

    def tool_calls(self) -> list[ToolCall]:
        """The tool calls that are complete, in order of their index."""
        calls: list[ToolCall] = []
        for _, call in sorted(self._calls.items()):
            arguments = _arguments(call)
            if not call.cancelled and arguments is not None:
                calls.append(ToolCall(id=call.start.id, name=call.start.name, arguments=arguments))
        return calls

    def _push_text(self, text: str) -> list[StreamEvent]:
        if not text:
            return []
        self._take_room(text)
        self._text.append(text)
        self.streamed = True
        return [TextDelta(text=text)]

    def _push_reasoning(self, event: ReasoningDelta) -> list[StreamEvent]:
        if not event.text:
            return []
        self._take_room(event.text)
        self._reasoning.append(event.text)
        self.streamed = True
        return [event]

    def _push_tool_event(
        self, event: ToolCallStart | ToolCallDelta | ToolCallCancel
    ) -> list[StreamEvent]:
        events = self._push_text(self._overlap.close())
        event = self._counted_on(event)
        self._called_tools = self.streamed = True
        call = self._calls.get(event.index)
        if isinstance(event, ToolCallStart):
            if call is not None:
                raise CarError("inference_failed", f"tool call {event.index} was started twice")
            self._calls[event.index] = _OpenCall(event)
        elif call is None:
            raise CarError("inference_failed", f"tool call {event.index} was never started")
        elif isinstance(event, ToolCallDelta):
            self._take_room(event.arguments_delta)
            call.arguments.append(event.arguments_delta)
        else:
            call.cancelled = True
        return [*events, event]

    def _take_room(self, text: str) -> None:
        self._room -= len(text)
        if self._room < 0:
            detail = f"the answer is longer than {MAX_ANSWER_CHARS} characters"
            raise CarError("inference_failed", detail)

    def _counted_on(self, event: Indexed) -> Indexed:
        return msgspec.structs.replace(event, index=event.index + self._first_index)

    def _noted(self, event: StreamEvent | Heartbeat) -> list[StreamEvent]:
        match event:
            case Heartbeat():
                return []
            case Stop():
                self.stop_reason = event.reason
                return [*self._push_text(self._overlap.close()), event]
            case UsageEvent():
                self._merge_usage(event)
            case ProviderOutputItem():
                self.provider_output_items.append(event.item)
            case StreamReset():
                self._reset()
            case ContentBlockStop() | ToolParseError():
                return [self._counted_on(event)]
            case _:
                pass
        return [event]

    def _merge_usage(self, event: UsageEvent) -> None:
        for field in event.__struct_fields__:
            value = getattr(event, field)
            if value is not UNSET:
                self._usage[field] = max(value, self._usage.get(field, 0))

    def _fill(self, done: Done) -> list[StreamEvent]:
        """Events for what only the end of the stream tells; deltas win over it."""
        events: list[StreamEvent] = []
        if not self._said_text:
            events += self.push(TextDelta(text=done.text))
        if not self._called_tools:
            for index, call in enumerate(done.tool_calls):
                arguments = msgspec.json.encode(call.arguments).decode()
                for event in (
                    ToolCallStart(index=index, id=call.id, name=call.name),
                    ToolCallDelta(index=index, id=call.id, arguments_delta=arguments),
                    ContentBlockStop(index=index),
                ):
                    events += self.push(event)
        return events


def error_of(event: ErrorEvent) -> CarError:
    """The error that an ``error`` event reports; an unknown kind becomes inference_failed."""
    try:
        return CarError(event.kind, event.message)
    except KeyError:
        return CarError("inference_failed", event.message)


def _is_cut(call: _OpenCall) -> bool:
    """Whether a call is not whole, by the rule of :class:`InterruptSnapshot`."""
    return not (call.start.name and call.arguments and _arguments(call) is not None)


def _arguments(call: _OpenCall) -> dict[str, Any] | None:
    text = "".join(call.arguments).strip()
    if not text:
        return {}
    try:
        arguments = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return None
    return arguments if _within(arguments, MAX_ARGUMENTS_DEPTH) else None


def _within(value: Any, levels: int) -> bool:
    """Whether a JSON value nests at most so many arrays and objects."""
    if not isinstance(value, dict | list):
        return True
    children = cast("Iterable[Any]", value.values() if isinstance(value, dict) else value)
    return levels > 0 and all(_within(child, levels - 1) for child in children)
