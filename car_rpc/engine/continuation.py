"""Ask a model to go on with an answer that was cut. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from car_rpc.engine.asked import Asked
from car_rpc.engine.interruption import CONTINUE_PROMPT


class Continuation(NamedTuple):
    """The beginning of an answer.

    Attributes:
        text: The answer so far.
        reasoning: The reasoning before it.
        counted_chars: How much of the text, in characters, came from attempts that told their
            usage. That and the reasoning before it count no more; the rest is the attempt's own.
    """

    text: str
    reasoning: str
    counted_chars: int = 0


def ask_to_continue(asked: Asked, text: str, prompt: str = CONTINUE_PROMPT) -> Asked:
    """The request with the answer so far as a turn of the assistant, and one that asks for more.

    Args:
        asked: The request.
        text: The answer so far.
        prompt: What the model is asked.
    """
    members = asked.members()
    messages = _turns(members)
    messages.append({"role": "assistant", "content": text})
    messages.append({"role": "user", "content": prompt})
    return asked.reworded({**members, "messages": messages})


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
