"""What the next request of a conversation says of the answer before it. Pure.

Only what is plain counts, and only half as much as the app's own verdict: an answer whose tool
calls all came back with results was of use; one whose request is sent again, or that the user
contradicts, was not. Everything else says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from car_rpc.outcomes.profiles import quality_of
from car_rpc.wire.content import Message, ToolResultBlock
from car_rpc.wire.inference import GenerateRequest, InferenceResult
from car_rpc.wire.script import last_user_text

#: How sure such a sign is, beside an app that says what it thinks.
CONFIDENCE = 0.5

#: Conversations whose last answer is remembered, the latest ones.
MAX_CONVERSATIONS = 4096

#: How English speakers begin to contradict.
_CONTRADICTS = re.compile(
    r"\W*(no,? (that|this|it|you|i)\b|(that|this|it)('s| is| was)( all)? (not|wrong|incorrect)\b"
    r"|(wrong|incorrect)\b|not what i\b|you misunderstood\b|try again\b)",
    re.IGNORECASE,
)


class _Turn(NamedTuple):
    """An answer: its trace, what was asked, and the tool calls in it."""

    trace_id: str
    asked: int
    calls: frozenset[str]


class Sign(NamedTuple):
    """What a request says of an earlier answer.

    Attributes:
        trace_id: The answer's trace.
        quality: How good it was, from 0 to 1.
    """

    trace_id: str
    quality: float


class Conversations:
    """The last answer of each conversation, in memory."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    def began(self, request: GenerateRequest) -> Sign | None:
        """A request begins; tells what it says of the answer before it, once."""
        conversation_id = request.conversation_id
        if not isinstance(conversation_id, str):
            return None
        last = self._turns.pop(conversation_id, None)
        useful = None if last is None else _was_useful(last, request)
        if last is None or useful is None:
            return None
        return Sign(last.trace_id, quality_of(success=useful, confidence=CONFIDENCE))

    def answered(self, request: GenerateRequest, result: InferenceResult) -> None:
        """A request got its answer."""
        conversation_id = request.conversation_id
        if not isinstance(conversation_id, str):
            return
        calls = frozenset(call.id for call in result.tool_calls)
        self._turns.pop(conversation_id, None)
        self._turns[conversation_id] = _Turn(result.trace_id, hash(_text(request)), calls)
        if len(self._turns) > MAX_CONVERSATIONS:
            del self._turns[next(iter(self._turns))]


def _was_useful(last: _Turn, request: GenerateRequest) -> bool | None:
    messages = request.messages if isinstance(request.messages, list) else []
    results = _results(messages[-len(last.calls) :]) if last.calls else frozenset[str]()
    if results:
        return True if last.calls <= results else None
    text = _text(request)
    if text and (hash(text) == last.asked or _CONTRADICTS.match(text)):
        return False
    return None


def _results(messages: Sequence[Message]) -> frozenset[str]:
    """Ids of the tool calls that have results at the end of a conversation."""
    found: set[str] = set()
    for message in messages:
        if message.role == "tool" and isinstance(message.tool_call_id, str):
            found.add(message.tool_call_id)
        if not isinstance(message.content, str):
            blocks = (each for each in message.content if isinstance(each, ToolResultBlock))
            found.update(block.tool_use_id for block in blocks)
    return frozenset(found)


def _text(request: GenerateRequest) -> str:
    if isinstance(request.prompt, str):
        return request.prompt
    messages = request.messages if isinstance(request.messages, list) else []
    if messages and messages[-1].role != "user":
        return ""
    return last_user_text(messages)
