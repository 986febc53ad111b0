"""What a request asks of a model. Pure; ``spec/ROUTING.md``, section 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from car_rpc.router.estimate import input_tokens, output_tokens
from car_rpc.wire.content import (
    AudioBlock,
    ContentBlock,
    ImageBlock,
    Message,
    ToolResultBlock,
    ToolUseBlock,
    VideoBlock,
)
from car_rpc.wire.inference import GenerateRequest, Workload
from car_rpc.wire.models import Capability
from car_rpc.wire.routing import IntentHint, Task, TaskComplexity, TaskHint

_TASK_OF_HINT: dict[TaskHint, Task] = {
    "code": "code",
    "reasoning": "reasoning",
    "classify": "classify",
}
_TASK_OF_COMPLEXITY: dict[TaskComplexity, Task] = {"code": "code", "complex": "reasoning"}

_NO_HINT = IntentHint()


class Ask(NamedTuple):
    """What a request asks of a model.

    Attributes:
        task: What kind of work it is; profiles are kept by it.
        complexity: How hard it looks.
        needs: What the model must be able to do.
        input_tokens: Estimated tokens of the prompt.
        output_tokens: Most tokens of the answer.
        workload: Who waits for it.
        intent: The client's hints.
    """

    task: Task = "generate"
    complexity: TaskComplexity = "medium"
    needs: frozenset[Capability] = frozenset({"generate"})
    input_tokens: int = 0
    output_tokens: int = 0
    workload: Workload = "interactive"
    intent: IntentHint = _NO_HINT


def ask_of(request: GenerateRequest, complexity: TaskComplexity) -> Ask:
    """What a ``generate`` request asks.

    Args:
        request: The request.
        complexity: How hard it looks.
    """
    intent = request.intent if isinstance(request.intent, IntentHint) else _NO_HINT
    if isinstance(intent.task, str):
        task = _TASK_OF_HINT.get(intent.task, "generate")
    else:
        task = _TASK_OF_COMPLEXITY.get(complexity, "generate")
    return Ask(
        task,
        complexity,
        frozenset({"generate", *intent.require, *_needs(request)}),
        input_tokens(request),
        output_tokens(request),
        request.params.workload or "interactive",
        intent,
    )


def _needs(request: GenerateRequest) -> Iterator[Capability]:
    if isinstance(request.tools, list):
        yield "tool_use"
    if request.images:
        yield from _needs_of_blocks(request.images)
    for message in request.messages or []:
        yield from _needs_of_message(message)


def _needs_of_message(message: Message) -> Iterator[Capability]:
    if message.tool_calls or message.role == "tool":
        yield "tool_use"
    if not isinstance(message.content, str):
        yield from _needs_of_blocks(message.content)


def _needs_of_blocks(blocks: list[ContentBlock]) -> Iterator[Capability]:
    for block in blocks:
        match block:
            case ImageBlock():
                yield "vision"
            case AudioBlock():
                yield "audio_understanding"
            case VideoBlock():
                yield "video_understanding"
            case ToolUseBlock():
                yield "tool_use"
            case ToolResultBlock(content=content):
                yield "tool_use"
                if not isinstance(content, str):
                    yield from _needs_of_blocks([*content])
            case _:
                pass
