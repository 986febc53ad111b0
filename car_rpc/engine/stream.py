"""The one accumulator: it turns a backend's events into a result, and normalises them.

The concatenation of the ``text_delta`` events that it passes on since the last
``stream_reset`` is the text of the result; the same holds for tool calls. What a backend
reports only at its end is passed on as events first, so this is true of every stream.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from car_rpc.engine.collected import collected_to_events
from car_rpc.engine.interruption import InterruptSnapshot
from car_rpc.engine.overlap import OverlapRemover
from car_rpc.engine.tool_calls import ToolCalls, ToolEvent
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
from car_rpc.wire.inference import TokenLogprob, Usage

#: Longest answer, in characters of text, reasoning and arguments together: nothing that a model
#: says, and far below what would hurt.
MAX_ANSWER_CHARS = 64 * 1024 * 1024


class Accumulator:
    """Collects one request's events over all its attempts."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls = ToolCalls()
        self._usage: dict[str, int] = {}  # of the attempt at hand
        self._used: dict[str, int] = {}  # by the attempts before
        self._room = MAX_ANSWER_CHARS
        self.provider_output_items: list[Any] = []
        #: Whether the text has the form that was asked for, where the backend looked at that.
        self.schema_valid: bool | UnsetType = UNSET
        #: How likely the tokens were, where that was asked for.
        self.logprobs: list[TokenLogprob] = []
        self.streamed = False
        self._items_before = 0
        #: Characters of the text that came from attempts before, which told their usage.
        self.counted_chars = 0
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
        if "completion_tokens" in self._usage:
            self.counted_chars = len(self.text)
        self._used, self._usage = self._counts(), {}
        self.stop_reason: StopReason | None = None
        self._overlap = OverlapRemover(self.text if may_repeat else "")
        self._said_text = False
        self._calls.begin_attempt()
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
            CarError: The backend reported an error, or the answer breaks a limit
                (``inference_failed``).
        """
        match event:
            case TextDelta():
                self._said_text = self._said_text or bool(event.text)
                if not self._overlap.decided:
                    return self._push_text(self._overlap.push(event.text))
                return self._add(self._text, event)
            case ReasoningDelta():
                return self._add(self._reasoning, event)
            case (
                ToolCallStart()
                | ToolCallDelta()
                | ToolCallCancel()
                | ContentBlockStop()
                | ToolParseError()
            ):
                return self._push_tool_event(event)
            case Done():
                return self._fill(event)
            case ErrorEvent():
                raise error_of(event)
            case _:
                return self._noted(event)

    def snapshot(self) -> InterruptSnapshot:
        """What has arrived, after a stream broke."""
        return InterruptSnapshot.from_partials(self.text, self.reasoning, self._calls.partial())

    def cancel_open_calls(self, reason: str) -> list[StreamEvent]:
        """Withdraw the tool calls that a break has cut; returns the events of it."""
        return self._calls.cancel_cut(reason)

    def _reset(self) -> None:
        self._text.clear()
        self._reasoning.clear()
        self._calls.reset()
        self.provider_output_items.clear()
        self.schema_valid = UNSET
        self.logprobs.clear()
        self.counted_chars = 0
        self.begin_attempt()

    def close(self) -> list[StreamEvent]:
        """The answer is complete; returns what its events still lacked.

        A tool call that does not parse is kept as text, never dropped; a stream
        without ``stop`` gets the one that its content shows.
        """
        events = self._push_text(self._overlap.close())
        for event in self._calls.close():
            if isinstance(event, TextDelta):
                self._text.append(event.text)
            events.append(event)
        if self.stop_reason is None:
            self.stop_reason = "tool_use" if self.tool_calls() else "end_turn"
            events.append(Stop(reason=self.stop_reason))
        return events

    def tool_calls(self) -> list[ToolCall]:
        """The tool calls that are complete, in order."""
        return self._calls.whole()

    def _push_text(self, text: str) -> list[StreamEvent]:
        return self._add(self._text, TextDelta(text=text))

    def _add(self, so_far: list[str], event: TextDelta | ReasoningDelta) -> list[StreamEvent]:
        text = event.text
        if not text:
            return []
        self._take_room(text)
        so_far.append(text)
        self.streamed = True
        return [event]

    def _push_tool_event(self, event: ToolEvent) -> list[StreamEvent]:
        if isinstance(event, ToolCallDelta):
            self._take_room(event.arguments_delta)
        told = self._calls.push(event)
        if not told:
            return []
        self.streamed = True
        return [*self._push_text(self._overlap.close()), *told]

    def _take_room(self, text: str) -> None:
        self._room -= len(text)
        if self._room < 0:
            detail = f"the answer is longer than {MAX_ANSWER_CHARS} characters"
            raise CarError("inference_failed", detail)

    def _noted(self, event: StreamEvent | Heartbeat) -> list[StreamEvent]:
        match event:
            case Heartbeat():
                return []
            case Stop():
                self.stop_reason = event.reason
                if event.schema_valid is not UNSET:
                    self.schema_valid = event.schema_valid
                text = self._push_text(self._overlap.close())
                return [*text, *self._calls.finish(), event]
            case UsageEvent():
                self._merge_usage(event)
            case ProviderOutputItem():
                self.provider_output_items.append(event.item)
            case StreamReset():
                self._reset()
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
        text = "" if self._said_text else done.text
        calls = [] if self._calls.called else done.tool_calls
        events: list[StreamEvent] = []
        for event in collected_to_events(text=text, tool_calls=calls):
            events += self.push(event)
        return [*events, *self._calls.finish()] if calls else events


def error_of(event: ErrorEvent) -> CarError:
    """The error that an ``error`` event reports; an unknown kind becomes inference_failed."""
    try:
        return CarError(event.kind, event.message)
    except KeyError:
        return CarError("inference_failed", event.message)
