"""What a request demands of an answer's form, where the model runs out of the core's reach.

A server or a runner may ignore what it does not know. An answer in another form must not pass for
one in the form that was asked for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from msgspec import UNSET

from car_rpc.errors import unsupported_mode
from car_rpc.wire.events import Done, Stop, StreamEvent, TextDelta, ToolCallCancel, ToolCallStart
from car_rpc.wire.inference import GenerateRequest, JsonObjectFormat, JsonSchemaFormat

#: How an answer ends that was cut or refused, and promises nothing.
_CUT = ("max_tokens", "thinking_truncated", "refusal", "stop_sequence")


def demands_call(request: GenerateRequest) -> bool:
    """Whether the answer must be a tool call."""
    return request.params.tool_choice not in (UNSET, "auto", "none")


def demands_json(request: GenerateRequest) -> bool:
    """Whether the answer must be JSON."""
    return isinstance(request.response_format, JsonSchemaFormat | JsonObjectFormat)


def held_to(
    request: GenerateRequest, backend: str, events: AsyncGenerator[StreamEvent, None]
) -> AsyncGenerator[StreamEvent, None]:
    """The events of an answer, which fails at its end if it is not what the request demands.

    Args:
        request: The client's request.
        backend: Name of the backend, for errors.
        events: The answer. Its generator raises ``unsupported_mode`` where a promise was broken.
    """
    if not demands_call(request) and not demands_json(request):
        return events
    return _checked(_Answer(request, backend), events)


async def _checked(
    answer: _Answer, events: AsyncGenerator[StreamEvent, None]
) -> AsyncGenerator[StreamEvent, None]:
    async with aclosing(events) as stream:
        async for event in stream:
            answer.see(event)
            yield event
    answer.check()


class _Answer:
    """What is known of an answer."""

    def __init__(self, request: GenerateRequest, backend: str) -> None:
        self._demands_call = demands_call(request)
        self._demands_json = demands_json(request)
        self._backend = backend
        self._text: list[str] = []
        self._calls = 0
        self._reason = ""

    def see(self, event: StreamEvent) -> None:
        match event:
            case TextDelta():
                self._text.append(event.text)
            case ToolCallStart():
                self._calls += 1
            case ToolCallCancel():
                self._calls -= 1
            case Stop():
                self._reason = event.reason
            case Done():
                self._text = self._text or [event.text]
                self._calls = self._calls or len(event.tool_calls)
            case _:
                pass

    def check(self) -> None:
        if self._reason in _CUT or self._calls > 0:
            return
        if self._demands_call:
            reason = "`tool_choice` was ignored; the answer has no tool call"
            raise unsupported_mode("tool-choice", self._backend, reason)
        if self._demands_json and not _is_json("".join(self._text)):
            reason = "`response_format` was ignored; the answer is not JSON"
            raise unsupported_mode("structured-output", self._backend, reason)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
