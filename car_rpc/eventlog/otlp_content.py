"""What was said in a request, in the form of OpenTelemetry's conventions. Pure.

The attributes are JSON in texts, with schemas like ``gen-ai-input-messages.json`` in the
repository of the conventions. A file is named by the hash under which the event log keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_Json: TypeAlias = dict[str, Any]


def content(params: Mapping[str, Any], result: Mapping[str, Any]) -> _Json:
    """The attributes of what was asked and answered; none of what was not kept.

    Args:
        params: Of the request.
        result: Its result, or nothing.
    """
    messages = [_message(each) for each in _objects(params.get("messages"))]
    if not messages and isinstance(params.get("prompt"), str):
        media = [part for block in _objects(params.get("images")) for part in _parts([block])]
        prompt: _Json = {"type": "text", "content": params["prompt"]}
        messages = [{"role": "user", "parts": [prompt, *media]}]
    system = [part for each in messages if each["role"] == "system" for part in each["parts"]]
    found = {
        "gen_ai.system_instructions": system,
        "gen_ai.input.messages": [each for each in messages if each["role"] != "system"],
        "gen_ai.tool.definitions": params.get("tools"),
        "gen_ai.output.messages": [*_answer(result)],
    }
    return {name: msgspec.json.encode(value).decode() for name, value in found.items() if value}


def _message(message: _Json) -> _Json:
    said = message.get("content")
    if message.get("role") == "tool":
        answer = {"type": "tool_call_response", "id": message.get("tool_call_id")}
        return {"role": "tool", "parts": [{**answer, "response": said}]}
    parts = [*_parts(said)]
    parts += [_call(call) for call in _objects(message.get("tool_calls"))]
    return {"role": message.get("role"), "parts": parts}


def _parts(said: object) -> Iterator[_Json]:
    if isinstance(said, str):
        yield {"type": "text", "content": said}
    for block in _objects(said):
        match block:
            case {"type": "text", "text": text}:
                yield {"type": "text", "content": text}
            case {"type": "thinking", "thinking": text}:
                yield {"type": "reasoning", "content": text}
            case {"type": "tool_use", "input": arguments}:
                yield _call({**block, "arguments": arguments})
            case {"type": "tool_result", "tool_use_id": call_id, "content": answer}:
                yield {"type": "tool_call_response", "id": call_id, "response": answer}
            case {"type": str(modality), "source": {"type": "blob", **source}}:
                told = {"mime_type": source.get("media_type"), "file_id": source.get("sha256")}
                yield {"type": "file", "modality": modality, **told}
            case {"type": str(modality), "source": {"type": "url", "url": url}}:
                yield {"type": "uri", "modality": modality, "uri": url}
            case _:
                yield {"type": str(block.get("type"))}


def _call(call: _Json) -> _Json:
    return {"type": "tool_call", **{name: call.get(name) for name in ("id", "name", "arguments")}}


def _answer(result: Mapping[str, Any]) -> Iterator[_Json]:
    if "text" not in result:
        return
    parts: list[_Json] = []
    if result.get("reasoning"):
        parts.append({"type": "reasoning", "content": result["reasoning"]})
    if result["text"]:
        parts.append({"type": "text", "content": result["text"]})
    parts += [_call(call) for call in _objects(result.get("tool_calls"))]
    yield {"role": "assistant", "parts": parts, "finish_reason": result.get("stop_reason")}


def _objects(values: object) -> list[_Json]:
    found = cast("list[Any]", values) if isinstance(values, list) else []  # type: ignore[redundant-cast]  # pyright needs it
    return [each for each in found if isinstance(each, dict)]
