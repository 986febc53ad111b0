"""What is left of a stream that broke, and how to go on from it. Pure.

The four plans and the rules of what counts as complete are the executor contract's, with its
holes closed: reasoning is kept, bytes are counted, and arguments are complete only when they are
an object.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from car_rpc.errors import CarError
from car_rpc.wire.content import ToolCall

#: What the model is asked after its own prefix, where it cannot simply go on.
CONTINUE_PROMPT = (
    "Your previous response was interrupted mid-stream. Continue from where you left off."
)

_CUT_TOOL_NOTE = (
    "Note: your parallel call to tool `{}` was interrupted mid-stream due to a transient upstream"
    " error. The other tool calls completed normally. You may re-issue the call if still needed."
)


#: Failures that break a stream in its middle; any other one is the answer.
_BREAKS_STREAM = frozenset(
    {
        "overloaded",
        "provider_error",
        "rate_limited",
        "runner_failed",
        "stream_interrupted",
        "timeout",
        "worker_crashed",
    }
)


class InFlightTool(Struct, frozen=True, kw_only=True):
    """A tool call that was cut; its name may be empty when not even that had come."""

    id: str
    name: str
    partial_args: str


class PartialCall(NamedTuple):
    """A tool call as far as it was streamed."""

    id: str
    name: str
    arguments: str


class InterruptSnapshot(Struct, frozen=True, kw_only=True):
    """What had arrived when a stream broke.

    Attributes:
        text: The answer so far; absent when there was none.
        reasoning: The reasoning so far; absent when there was none.
        completed_tool_calls: Calls whose arguments were there whole, in order.
        in_flight_tool: The last call that was cut.
        bytes_received: Bytes of text, reasoning and arguments, as UTF-8.
    """

    text: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    completed_tool_calls: list[ToolCall] = []
    in_flight_tool: InFlightTool | UnsetType = UNSET
    bytes_received: int = 0

    @classmethod
    def from_partials(
        cls, text: str, reasoning: str, calls: Iterable[PartialCall]
    ) -> InterruptSnapshot:
        """Sort what was streamed into what is complete and what was cut.

        A call without a name, or whose arguments are not an object, was cut; of several, the
        last is kept.
        """
        calls = list(calls)
        completed: list[ToolCall] = []
        in_flight: InFlightTool | UnsetType = UNSET
        for call in calls:
            arguments = _object(call.arguments) if call.name else None
            if arguments is None:
                in_flight = InFlightTool(id=call.id, name=call.name, partial_args=call.arguments)
            else:
                completed.append(ToolCall(id=call.id, name=call.name, arguments=arguments))
        parts = [text, reasoning, *(call.arguments for call in calls)]
        return cls(
            text=text or UNSET,
            reasoning=reasoning or UNSET,
            completed_tool_calls=completed,
            in_flight_tool=in_flight,
            bytes_received=sum(len(part.encode(errors="replace")) for part in parts),
        )


class SynthesizeToolUse(NamedTuple):
    """Some calls are whole: end the answer with them, without asking again."""

    completed: list[ToolCall]
    cancelled_tool_hint: InFlightTool | None


class TruncateBeforeTool(NamedTuple):
    """Drop the call that was cut and continue the text before it."""

    assistant_prefix: str
    cancelled_tool_id: str
    cancelled_tool_name: str


class ContinueText(NamedTuple):
    """Continue the text."""

    assistant_prefix: str


class WholeRestart(NamedTuple):
    """Nothing can be saved: ask again from the start."""


Plan: TypeAlias = SynthesizeToolUse | TruncateBeforeTool | ContinueText | WholeRestart

#: What a plan is called in a ``recovery`` event.
PLAN_NAMES: dict[type[Plan], str] = {
    SynthesizeToolUse: "synthesize_tool_use",
    TruncateBeforeTool: "truncate_before_tool",
    ContinueText: "continue_text",
    WholeRestart: "whole_restart",
}


def plan(snapshot: InterruptSnapshot) -> Plan:
    """How to go on from a snapshot."""
    in_flight = snapshot.in_flight_tool if isinstance(snapshot.in_flight_tool, Struct) else None
    if snapshot.completed_tool_calls:
        return SynthesizeToolUse(snapshot.completed_tool_calls, in_flight)
    if not isinstance(snapshot.text, str):
        return WholeRestart()
    if in_flight is not None:
        return TruncateBeforeTool(snapshot.text, in_flight.id, in_flight.name)
    return ContinueText(snapshot.text)


def interrupted(cause: str, **data: Any) -> CarError:
    """The error of a stream that broke.

    Args:
        cause: ``connection_reset``, ``goaway``, ``idle_stall``, ``provider_503`` (or another
            status), ``worker_crashed``, ``runner_failed`` or ``resumed_from_checkpoint``. The
            display text says it in the executor contract's words.
        data: Further members of ``error.data``.
    """
    text = cause.replace("_", " ")
    if text.startswith("provider "):
        text = f"{text} mid-stream"
    return CarError("stream_interrupted", text, cause=cause, **data)


def breaks_stream(failure: CarError) -> bool:
    """Whether a failure in the middle of a stream is a break of it; any other is the answer."""
    return failure.kind in _BREAKS_STREAM


def passes(failure: CarError) -> bool:
    """Whether another attempt may work; after a deadline there is no time for one."""
    return failure.retryable and failure.extra.get("cause") != "deadline"


def cause_of(failure: CarError) -> str:
    """Why a stream broke, by the names of :func:`interrupted`."""
    cause = failure.extra.get("cause")
    if isinstance(cause, str):
        return cause
    if failure.kind == "timeout":
        return "idle_stall"
    if failure.kind in ("worker_crashed", "runner_failed"):
        return failure.kind
    text = failure.detail.lower()
    if any(
        word in text for word in ("goaway", "go_away", "http/2 going away", "connection: close")
    ):
        return "goaway"
    if "502" in text or "503" in text:
        return "provider_503"
    return "connection_reset"


def cut_tool_note(tool_name: str) -> str:
    """What the model is told, in its next turn, of a call that was cut beside whole ones."""
    return _CUT_TOOL_NOTE.format(tool_name)


def _object(text: str) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return None


def unsaved(failure: CarError, cause: str, snapshot: InterruptSnapshot) -> CarError:
    """How a broken stream that could not go on fails, with what there was of it."""
    if breaks_stream(failure) and "suspect" not in failure.extra:
        return interrupted(cause, snapshot=snapshot)
    return failure.with_data(cause=cause, snapshot=snapshot)
