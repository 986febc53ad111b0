"""Ask a model to go on with an answer that was cut. Pure.

The request is patched as JSON, so that whoever forwards it (a runner, a server) gets all that the
client had put there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from car_rpc.engine.interruption import CONTINUE_PROMPT
from car_rpc.wire.base import decode_object
from car_rpc.wire.inference import GenerateRequest


class Continuation(NamedTuple):
    """The beginning of an answer.

    Attributes:
        text: The answer so far.
        reasoning: The reasoning before it.
    """

    text: str
    reasoning: str


def ask_to_continue(raw_request: bytes, text: str) -> tuple[GenerateRequest, bytes]:
    """The request with the answer so far as a turn of the assistant, and one that asks for more.

    Args:
        raw_request: The client's own JSON.
        text: The answer so far.
    """
    params = decode_object(raw_request)
    messages = _turns(params)
    messages.append({"role": "assistant", "content": text})
    messages.append({"role": "user", "content": CONTINUE_PROMPT})
    raw = msgspec.json.encode({**params, "messages": messages})
    return msgspec.json.decode(raw, type=GenerateRequest), raw


def _turns(params: dict[str, Any]) -> list[dict[str, Any]]:
    """Takes all that was asked as turns; ``images`` belong to the last one of the user."""
    turns: list[dict[str, Any]] = [*(params.get("messages") or ())]
    if "prompt" in params:
        turns.append({"role": "user", "content": params.pop("prompt")})
    images: list[Any] = params.pop("images", None) or []
    for position, turn in reversed([*enumerate(turns)]):
        if images and turn.get("role") == "user":
            content = turn.get("content") or ""
            text = [{"type": "text", "text": content}] if isinstance(content, str) else content
            turns[position] = {**turn, "content": [*images, *text]}
            break
    return turns
