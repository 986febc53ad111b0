"""Stream events out of the chunks of a chat completion. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from car_rpc.backends.openai_compat import loose
from car_rpc.backends.openai_compat.calls import CallReader
from car_rpc.wire.base import MAX_SAFE_INTEGER
from car_rpc.wire.events import (
    ReasoningDelta,
    Stop,
    StopReason,
    StreamEvent,
    TextDelta,
    UsageEvent,
)

#: Reasoning goes by several names; the first one that holds text counts, because some servers
#: send the same text under two.
_REASONING = ("reasoning_content", "reasoning", "thinking")

_STOP_REASONS: dict[str, StopReason] = {
    "content_filter": "refusal",
    "function_call": "tool_use",
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "stop_sequence": "stop_sequence",
    "tool_calls": "tool_use",
    "tool_use": "tool_use",
}

#: Reasons that are failures: OpenRouter's and DeepSeek's.
_FAILED = ("error", "insufficient_system_resource")


class _Chunk(msgspec.Struct):
    """What is read of a chunk, or of a whole completion. Loose: servers differ."""

    choices: list[Any] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None
    object: str | None = None


class ChunkReader:
    """Reads one answer.

    Attributes:
        finished: Whether the server said why the answer ends.
        failed: Whether it said that the answer ends in a failure.
        started: Whether a part of the answer has come.
        stop_reason: Why the answer ended; ``None`` while the server did not say.

    Args:
        context_window: The model's, in tokens; told with the usage when it is known.
    """

    def __init__(self, context_window: int = 0) -> None:
        self._context_window = context_window or UNSET
        self.calls = CallReader()
        self.finished = False
        self.failed = False
        self.started = False
        self.stop_reason: StopReason | None = None
        self._has_text = False
        self._refused = False

    def read(self, data: bytes) -> list[StreamEvent] | None:
        """The events of a chunk, or ``None`` for one that reports an error.

        Raises:
            msgspec.DecodeError: It is not a chunk.
            CarError: It breaks a limit.
        """
        chunk = msgspec.json.decode(data, type=_Chunk)
        if chunk.error or chunk.object == "error":
            return None
        events: list[StreamEvent] = []
        for choice in chunk.choices or []:
            events += self._choice(loose.members(choice))
        self.started = self.started or bool(events)
        if chunk.usage is not None:
            events += self._usage(chunk.usage)
        return events

    def finish(self) -> list[StreamEvent]:
        """The last events of an answer that is complete."""
        events = self.calls.finish()
        if self.finished:
            self.stop_reason = self._stop_reason()
            events.append(Stop(reason=self.stop_reason))
        return events

    def _choice(self, choice: dict[str, Any]) -> list[StreamEvent]:
        if choice.get("index"):  # only one answer was asked for
            return []
        # A server that does not stream sends its whole answer as a message.
        delta = loose.members(choice.get("delta") or choice.get("message"))
        events = _reasoning(delta)
        events += self._content(delta.get("content"))
        if delta.get("refusal"):
            self._refused = True
            events += self._content(delta["refusal"])
        legacy = delta.get("function_call")
        calls = delta.get("tool_calls") or ([{"index": 0, "function": legacy}] if legacy else [])
        events += self.calls.read(loose.items(calls))
        self._end(choice)
        return events

    def _content(self, content: Any) -> list[StreamEvent]:
        if isinstance(content, str):
            self._has_text = self._has_text or bool(content)
            return [TextDelta(text=content)] if content else []
        events: list[StreamEvent] = []
        for part in map(loose.members, loose.items(content)):
            # Mistral sends text and reasoning as parts.
            events += self._content(loose.text(part.get("text")))
            events += _reasoning({"thinking": _joined(part.get("thinking"))})
        return events

    def _end(self, choice: dict[str, Any]) -> None:
        reason = choice.get("finish_reason")
        if not isinstance(reason, str) or not reason:
            return
        self.finished = True
        self.failed = reason in _FAILED
        self.stop_reason = _STOP_REASONS.get(reason, "end_turn")
        # vLLM names the stop string that matched.
        if self.stop_reason == "end_turn" and isinstance(choice.get("stop_reason"), str):
            self.stop_reason = "stop_sequence"

    def _stop_reason(self) -> StopReason:
        reason = self.stop_reason or "end_turn"
        if self._refused:
            return "refusal"
        if reason == "end_turn" and self.calls:
            return "tool_use"  # many servers say `stop` after a call, too
        cut_reasoning = reason == "max_tokens" and self.started
        if cut_reasoning and not self._has_text and not self.calls:
            return "thinking_truncated"
        return reason

    def _usage(self, usage: dict[str, Any]) -> list[StreamEvent]:
        prompt = loose.members(usage.get("prompt_tokens_details"))
        completion = loose.members(usage.get("completion_tokens_details"))
        event = UsageEvent(
            prompt_tokens=_count(usage, "prompt_tokens"),
            completion_tokens=_count(usage, "completion_tokens"),
            total_tokens=_count(usage, "total_tokens"),
            cache_read_tokens=_count(prompt, "cached_tokens"),
            thinking_tokens=_count(completion, "reasoning_tokens"),
        )
        if event == UsageEvent():
            return []
        return [msgspec.structs.replace(event, context_window=self._context_window)]


def _reasoning(delta: dict[str, Any]) -> list[StreamEvent]:
    for name in _REASONING:
        text = loose.text(delta.get(name))
        if text:
            return [ReasoningDelta(text=text)]
    return []


def _joined(parts: Any) -> str:
    return "".join(loose.text(loose.members(part).get("text")) for part in loose.items(parts))


def _count(counts: dict[str, Any], name: str) -> int | UnsetType:
    count = counts.get(name)
    if isinstance(count, int) and 0 <= count <= MAX_SAFE_INTEGER:
        return count
    return UNSET
