"""Messages in the shape that chat templates expect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from car_rpc.errors import unsupported_mode
from car_rpc.wire.content import (
    AudioBlock,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from car_rpc.wire.content import ContentBlock
    from car_rpc.wire.media import MediaBlock

    Mark = Callable[[MediaBlock], str]

TemplateMessage = dict[str, Any]


def template_messages(
    messages: Sequence[Message], backend: str, mark: Mark | None = None
) -> list[TemplateMessage]:
    """Messages as dicts with ``role``, ``content`` and, where given, calls and reasoning.

    Args:
        messages: The conversation.
        backend: Name of the engine, for the error text.
        mark: What stands in a text for an image or a recording; ``None`` where none can be read.

    Raises:
        CarError: A block is of a kind that the engine cannot read (``unsupported_mode``).
    """
    return [turn for message in messages for turn in _turns(message, backend, mark)]


def template_tools(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tools with the members that templates take for granted."""
    return [{**tool, "function": _function(tool["function"])} for tool in tools]


def _function(function: dict[str, Any]) -> dict[str, Any]:
    name, none = function["name"], {"type": "object", "properties": dict[str, Any]()}
    return {"name": name, "description": "", "parameters": none, **function}


def _turns(message: Message, backend: str, mark: Mark | None) -> list[TemplateMessage]:
    blocks: Sequence[ContentBlock] = (
        [TextBlock(text=message.content)] if isinstance(message.content, str) else message.content
    )
    texts: list[str] = []
    reasoning: list[str] = [] if message.reasoning is UNSET else [message.reasoning]
    calls = (
        []
        if message.tool_calls is UNSET
        else [_call(call.id, call.name, call.arguments) for call in message.tool_calls]
    )
    results: list[TemplateMessage] = []
    for block in blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ThinkingBlock):
            reasoning.append(block.thinking)
        elif isinstance(block, ToolUseBlock):
            calls.append(_call(block.id, block.name, block.input))
        elif isinstance(block, ToolResultBlock):
            results.append(_result(block.tool_use_id, _text(block, backend, mark)))
        else:
            texts.append(_marked(block, backend, mark))
    if results and not texts:
        return results
    turn: TemplateMessage = {"role": message.role, "content": "".join(texts)}
    if reasoning:
        turn["reasoning_content"] = "".join(reasoning)
    if calls:
        turn["tool_calls"] = calls
    if message.tool_call_id is not UNSET:
        turn["tool_call_id"] = message.tool_call_id
    return [*results, turn]


def _call(call_id: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    # Templates read either OpenAI's nested form or the flat one, so both are there.
    function = {"name": name, "arguments": arguments}
    return {"type": "function", "id": call_id, "function": function, **function}


def _result(call_id: str, text: str) -> TemplateMessage:
    return {"role": "tool", "content": text, "tool_call_id": call_id}


def _text(result: ToolResultBlock, backend: str, mark: Mark | None) -> str:
    if isinstance(result.content, str):
        return result.content
    return "".join(
        block.text if isinstance(block, TextBlock) else _marked(block, backend, mark)
        for block in result.content
    )


def _marked(block: ContentBlock, backend: str, mark: Mark | None) -> str:
    if mark is None or not isinstance(block, ImageBlock | AudioBlock):
        raise _unreadable(block, backend)
    return mark(block)


def _unreadable(block: ContentBlock, backend: str) -> Exception:
    kind = type(block).__name__.removesuffix("Block").lower()
    return unsupported_mode(kind, backend, f"this model reads text, not {kind} content")
