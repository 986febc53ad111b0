"""Stream events: one vocabulary for ``generate.event`` and ``runner.event``.

The concatenation of ``text_delta`` since the last ``stream_reset`` equals ``result.text``.
Every stream ends with exactly one ``done`` or ``error``.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import msgspec
from msgspec import UNSET, UnsetType

from car_rpc.wire.base import NonNegative, WireStruct
from car_rpc.wire.content import ToolCall

StopReason: TypeAlias = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "thinking_truncated"
]


class Attempt(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="attempt"):
    """First event of every attempt, so that a fallback is visible. ``attempt`` starts at 1.

    Attributes:
        attempt: Number of the attempt within the request, from 1.
        trace_id: The request in the event log.
        model: Id of the model that is tried.
        reason: Why this model, when it is not the first attempt.
    """

    attempt: int
    trace_id: str
    model: str
    reason: str | UnsetType = UNSET


class TextDelta(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="text_delta"):
    """A piece of the answer, in whole characters.

    Attributes:
        text: What follows the text so far.
    """

    text: str


class ReasoningDelta(
    WireStruct, frozen=True, kw_only=True, tag_field="type", tag="reasoning_delta"
):
    """A piece of the model's reasoning.

    Attributes:
        text: What follows the reasoning so far.
    """

    text: str


class ToolCallStart(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="tool_call_start"):
    """A tool call begins; ``index`` counts tool calls of the answer from 0.

    Attributes:
        index: Number of the tool call in the answer, from 0.
        id: Id of the tool call, which its result names.
        name: Name of the tool.
    """

    index: NonNegative
    id: str
    name: str


class ToolCallDelta(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="tool_call_delta"):
    """A piece of a tool call's arguments, as JSON text.

    Attributes:
        index: Number of the tool call in the answer, from 0.
        id: Id of the tool call.
        arguments_delta: What follows the JSON text so far.
    """

    index: NonNegative
    id: str
    arguments_delta: str


class ToolCallCancel(
    WireStruct, frozen=True, kw_only=True, tag_field="type", tag="tool_call_cancel"
):
    """A tool call is withdrawn; one that a policy refuses had not been told of.

    Attributes:
        index: Number of the tool call in the answer, from 0.
        id: Id of the tool call.
        reason: Why, for people.
    """

    index: NonNegative
    id: str
    reason: str


class ToolParseError(
    WireStruct, frozen=True, kw_only=True, tag_field="type", tag="tool_parse_error"
):
    """Output that looked like a tool call did not parse; it stays in the text.

    Attributes:
        index: Number that the tool call would have had.
        raw: The output as it is.
        message: What is wrong with it, for people.
    """

    index: NonNegative
    raw: str
    message: str


class ContentBlockStop(
    WireStruct, frozen=True, kw_only=True, tag_field="type", tag="content_block_stop"
):
    """A content block ended.

    Attributes:
        index: The tool call that is complete, by its number.
    """

    index: NonNegative


class UsageEvent(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="usage"):
    """Token counts of the attempt so far; fields of several events merge by maximum.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens of the answer, reasoning included.
        total_tokens: Both together.
        context_window: Tokens that the model has room for.
        cache_read_tokens: Tokens of the prompt that came from a cache.
        cache_creation_tokens: Tokens of the prompt that were put into a cache.
        thinking_tokens: Tokens of the reasoning.
        draft_tokens: Tokens that were guessed before the model said them; see ``speculation`` of
            the source ``local``.
        accepted_draft_tokens: How many of these it then said. They are part of
            ``completion_tokens``, as any other.
    """

    prompt_tokens: NonNegative | UnsetType = UNSET
    completion_tokens: NonNegative | UnsetType = UNSET
    total_tokens: NonNegative | UnsetType = UNSET
    context_window: NonNegative | UnsetType = UNSET
    cache_read_tokens: NonNegative | UnsetType = UNSET
    cache_creation_tokens: NonNegative | UnsetType = UNSET
    thinking_tokens: NonNegative | UnsetType = UNSET
    draft_tokens: NonNegative | UnsetType = UNSET
    accepted_draft_tokens: NonNegative | UnsetType = UNSET


class ProviderOutputItem(
    WireStruct, frozen=True, kw_only=True, tag_field="type", tag="provider_output_item"
):
    """An opaque item that must go back to the same provider in the next turn.

    Attributes:
        item: The provider's own JSON.
    """

    item: Any


class StreamReset(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="stream_reset"):
    """Drop the partial answer shown so far: an attempt starts anew.

    Attributes:
        reason: Why, for people.
    """

    reason: str


class Recovery(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="recovery"):
    """An interrupted stream goes on, or an answer that ended too early.

    Attributes:
        cause: What interrupted it, such as ``connection_reset`` or ``worker_crashed``, or why it
            ended too early: ``max_tokens`` or ``thinking_truncated``.
        plan: How it goes on: ``continue_text``, ``truncate_before_tool``,
            ``synthesize_tool_use``, ``whole_restart``, ``continue_max_tokens`` or
            ``retry_without_thinking``.
        attempt: Number of the attempt that goes on.
        overlap_removed: Characters that were repeated and dropped.
    """

    cause: str
    plan: str
    attempt: int
    overlap_removed: NonNegative | UnsetType = UNSET


class Stop(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="stop"):
    """Why the model stopped.

    Attributes:
        reason: The reason.
        schema_valid: Whether the text has the form that ``response_format`` asked for, where that
            was looked at.
    """

    reason: StopReason
    schema_valid: bool | UnsetType = UNSET


class Done(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="done"):
    """Last event of every successful stream.

    Attributes:
        text: The whole answer.
        tool_calls: All tool calls of the answer.
    """

    text: str = ""
    tool_calls: list[ToolCall] = msgspec.field(default_factory=list[ToolCall])


class ErrorEvent(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """Last event of a failed stream; the response is an error of the same kind.

    Attributes:
        kind: What happened, from the error table.
        message: Text for people.
    """

    kind: str = "inference_failed"
    message: str = ""


class Heartbeat(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="heartbeat"):
    """A runner is alive but has nothing to say yet. Never forwarded to the client."""


StreamEvent: TypeAlias = (
    Attempt
    | TextDelta
    | ReasoningDelta
    | ToolCallStart
    | ToolCallDelta
    | ToolCallCancel
    | ToolParseError
    | ContentBlockStop
    | UsageEvent
    | ProviderOutputItem
    | StreamReset
    | Recovery
    | Stop
    | Done
    | ErrorEvent
)

#: What a runner may send (protocol, section Runner).
RunnerEvent: TypeAlias = (
    TextDelta
    | ReasoningDelta
    | ToolCallStart
    | ToolCallDelta
    | ToolCallCancel
    | ToolParseError
    | ContentBlockStop
    | UsageEvent
    | ProviderOutputItem
    | Stop
    | Heartbeat
    | Done
    | ErrorEvent
)


class RunnerEventTag(WireStruct, frozen=True, kw_only=True):
    """Only the tag of an event, to tell an unknown event from a malformed one."""

    type: str


RUNNER_EVENT_TYPES = frozenset(str(kind.__struct_config__.tag) for kind in get_args(RunnerEvent))
