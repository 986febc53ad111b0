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
    messages = [*(params.get("messages") or ()), *_last_turn(params)]
    messages.append({"role": "assistant", "content": text})
    messages.append({"role": "user", "content": CONTINUE_PROMPT})
    raw = msgspec.json.encode({**params, "messages": messages})
    return msgspec.json.decode(raw, type=GenerateRequest), raw


def _last_turn(params: dict[str, Any]) -> list[dict[str, Any]]:
    """Takes ``prompt`` and ``images``, which belong to the last user turn, as a turn of their own.

    With messages alone, the images stay where they are: they belong to the last user turn there.
    """
    if "prompt" not in params:
        return []
    prompt: str = params.pop("prompt")
    images: list[Any] = params.pop("images", None) or []
    if not images:
        return [{"role": "user", "content": prompt}]
    return [{"role": "user", "content": [*images, {"type": "text", "text": prompt}]}]
