"""Turns of a conversation in OpenAI's form. Pure.

OpenAI's form has no place for the reasoning of earlier turns, so that is left out; everything
else is sent or refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET

from car_rpc.errors import CarError
from car_rpc.wire.content import (
    AudioBlock,
    Base64Source,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolResultBlock,
    ToolUseBlock,
    UrlSource,
)
from car_rpc.wire.inference import GenerateRequest

Json: TypeAlias = dict[str, Any]

#: The formats of sound that OpenAI's form has a name for.
_AUDIO_FORMATS = {
    "audio/mp3": "mp3",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/wave": "wav",
    "audio/x-wav": "wav",
}


def messages_of(request: GenerateRequest) -> list[Json]:
    """All turns of a request: the context as system text, the messages, the prompt, the images.

    Raises:
        CarError: ``invalid_request`` for content that the form cannot hold; ``path`` names it.
    """
    turns = request.messages if isinstance(request.messages, list) else []
    sent = [
        part for index, turn in enumerate(turns) for part in _turn(turn, f"$.messages[{index}]")
    ]
    if isinstance(request.context, str) and request.context:
        _add_context(sent, request.context)
    if isinstance(request.prompt, str):
        sent.append({"role": "user", "content": request.prompt})
    if isinstance(request.images, list) and request.images:
        _add_images(sent, request.images)
    return sent


def _add_context(sent: list[Json], context: str) -> None:
    # Chat templates take one system turn, the first.
    if sent and sent[0]["role"] == "system":
        sent[0]["content"] += f"\n\n{context}"
    else:
        sent.insert(0, {"role": "system", "content": context})


def _add_images(sent: list[Json], images: Sequence[ContentBlock]) -> None:
    parts = [_part(block, f"$.images[{index}]") for index, block in enumerate(images)]
    turn = next((turn for turn in reversed(sent) if turn["role"] == "user"), None)
    if turn is None:
        raise _refusal("there is no user turn that they could belong to", "$.images")
    content = turn["content"]
    before = [{"type": "text", "text": content}] if isinstance(content, str) else content
    turn["content"] = [*before, *parts]


def _turn(turn: Message, path: str) -> list[Json]:
    match turn.role:
        case "assistant":
            return _assistant(turn, path)
        case "tool":
            return _tool(turn, path)
        case "user":
            return _user(turn, path)
        case "system":
            return [{"role": "system", "content": _text(turn.content, f"{path}.content")}]


def _user(turn: Message, path: str) -> list[Json]:
    """Tool results go first: they must follow the calls that they answer."""
    if isinstance(turn.content, str):
        return [{"role": "user", "content": turn.content}]
    results: list[Json] = []
    parts: list[Json] = []
    for position, block in enumerate(turn.content):
        where = f"{path}.content[{position}]"
        if isinstance(block, ToolResultBlock):
            results.append(_result(block, where))
        else:
            parts.append(_part(block, where))
    if not parts and results:
        return results
    # One string where there is only text: not every server reads lists.
    only_text = all(part["type"] == "text" for part in parts)
    content = "".join(part["text"] for part in parts) if only_text else parts
    return [*results, {"role": "user", "content": content}]


def _assistant(turn: Message, path: str) -> list[Json]:
    calls = list(turn.tool_calls) if isinstance(turn.tool_calls, list) else []
    text: list[str] = []
    results: list[Json] = []
    blocks = [TextBlock(text=turn.content)] if isinstance(turn.content, str) else turn.content
    for position, block in enumerate(blocks):
        where = f"{path}.content[{position}]"
        match block:
            case TextBlock():
                text.append(block.text)
            case ToolUseBlock():
                calls.append(ToolCall(id=block.id, name=block.name, arguments=block.input))
            case ToolResultBlock():
                results.append(_result(block, where))
            case ThinkingBlock():
                pass
            case _:
                raise _refusal("an assistant turn holds text and tool calls only", where)
    said = "".join(text)
    if not calls:
        return [*([] if results and not said else [_said(said)]), *results]
    # The content is "" where there is none: some servers refuse null, some its absence.
    return [{**_said(said), "tool_calls": [_call(call) for call in calls]}, *results]


def _said(text: str) -> Json:
    return {"role": "assistant", "content": text}


def _call(call: ToolCall) -> Json:
    arguments = msgspec.json.encode(call.arguments).decode()
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _tool(turn: Message, path: str) -> list[Json]:
    content = turn.content
    if isinstance(content, list) and any(isinstance(block, ToolResultBlock) for block in content):
        return [
            _result(block, f"{path}.content[{position}]") for position, block in enumerate(content)
        ]
    if not isinstance(turn.tool_call_id, str):
        raise _refusal("a tool turn must name the call that it answers", f"{path}.tool_call_id")
    return [_answer(turn.tool_call_id, _text(content, f"{path}.content"))]


def _result(block: ContentBlock, path: str) -> Json:
    if not isinstance(block, ToolResultBlock):
        raise _refusal("a turn with tool results holds nothing else", path)
    return _answer(block.tool_use_id, _text(block.content, f"{path}.content"))


def _answer(call_id: str, text: str) -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def _text(content: str | Sequence[ContentBlock], path: str) -> str:
    """Content that must be text alone."""
    if isinstance(content, str):
        return content
    for position, block in enumerate(content):
        if not isinstance(block, TextBlock):
            raise _refusal(f"only text can stand here, not {_kind(block)}", f"{path}[{position}]")
    return "".join(block.text for block in content if isinstance(block, TextBlock))


def _part(block: ContentBlock, path: str) -> Json:
    """A block of a user turn."""
    match block:
        case TextBlock():
            return {"type": "text", "text": block.text}
        case ImageBlock(source=UrlSource(url=url)):
            return {"type": "image_url", "image_url": {"url": url}}
        case ImageBlock(source=Base64Source() as source):
            return {"type": "image_url", "image_url": {"url": _data_url(source)}}
        case AudioBlock(source=Base64Source(media_type=media_type, data=data)):
            if media_type not in _AUDIO_FORMATS:
                raise _refusal(f"sound must be WAV or MP3, not {media_type}", f"{path}.source")
            sound = {"data": data, "format": _AUDIO_FORMATS[media_type]}
            return {"type": "input_audio", "input_audio": sound}
        case DocumentBlock(source=Base64Source() as source):
            name = "document" if block.title is UNSET else block.title
            return {"type": "file", "file": {"filename": name, "file_data": _data_url(source)}}
        case _:
            raise _refusal(f"OpenAI's form has no place for this {_kind(block)}", path)


def _data_url(source: Base64Source) -> str:
    return f"data:{source.media_type};base64,{source.data}"


def _kind(block: ContentBlock) -> str:
    return str(block.__struct_config__.tag)


def _refusal(reason: str, path: str) -> CarError:
    return CarError("invalid_request", f"{reason} - at `{path}`", path=path)
