"""Parse the inside of a ``<tool_call>`` block."""

from __future__ import annotations

import json
from typing import Any, cast


class BadToolCall(ValueError):
    """The block is no tool call; the text says why."""


def parse_tool_call(body: str) -> tuple[str, str]:
    """Name and arguments (a JSON object as text) of a call.

    Arguments may also be called ``parameters`` (Llama), come as a string that holds JSON
    (OpenAI), or be absent.

    Raises:
        BadToolCall: The body is not a JSON object with a name and an object of arguments.
    """
    call = _object(_json(body), "it")
    name = call.get("name")
    if not isinstance(name, str) or not name:
        raise BadToolCall("it has no name")
    arguments = call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str):
        arguments = _json(arguments)
    if arguments is None:
        arguments = {}
    return name, json.dumps(_object(arguments, "arguments"), ensure_ascii=False)


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadToolCall(f"{what} must be a JSON object")
    return cast("dict[str, Any]", value)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadToolCall(str(error) or "nested too deeply") from error
