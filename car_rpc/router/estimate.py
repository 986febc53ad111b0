"""How many tokens a request will take, before any model has counted them. Pure.

It counts all that goes to a model: prompt, context, messages, tools and media. The figures are
those of ``spec/ROUTING.md``, section 1, which says where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec import UnsetType

from car_rpc.wire.content import (
    ContentBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.models import ModelSchema

#: Bytes of UTF-8 to a token: four characters of English, one and a third of Chinese.
BYTES_PER_TOKEN = 4

#: What the markers around a turn take, in tokens.
TURN_TOKENS = 4

#: Tokens of an answer when the request does not limit it.
DEFAULT_OUTPUT_TOKENS = 1024

#: Tokens of media, by the tag of their block.
MEDIA_TOKENS = {"image": 1024, "audio": 1500, "video": 8192, "document": 3072}


class Estimate(NamedTuple):
    """Tokens of a request beside a model's room.

    Attributes:
        input_tokens: Of the prompt.
        context_length: Of the model's context; 0 when unknown.
        fits: Whether prompt and answer fit in it, as far as is known.
    """

    input_tokens: int
    context_length: int
    fits: bool


def estimated_tokens(request: GenerateRequest, model: ModelSchema | None = None) -> Estimate:
    """Whether a request fits a model."""
    tokens = input_tokens(request)
    window = model.context_length if model is not None else 0
    return Estimate(tokens, window, window == 0 or tokens + output_tokens(request) <= window)


def output_tokens(request: GenerateRequest) -> int:
    """Tokens that the answer may take."""
    most = request.params.max_tokens
    return most if isinstance(most, int) else DEFAULT_OUTPUT_TOKENS


def input_tokens(request: GenerateRequest) -> int:
    """Tokens of everything that goes to the model."""
    turns = [text for text in (request.prompt, request.context) if text]
    total = sum(TURN_TOKENS + text_tokens(text) for text in turns)
    if request.messages:
        total += sum(map(_message_tokens, request.messages))
    if request.images:
        total += _blocks_tokens(request.images)
    if request.tools:
        total += sum(map(_json_tokens, request.tools))
    return total


def text_tokens(text: str) -> int:
    """Tokens of a text."""
    size = len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
    return -(-size // BYTES_PER_TOKEN)


def _json_tokens(value: object) -> int:
    return -(-len(msgspec.json.encode(value)) // BYTES_PER_TOKEN)


def _message_tokens(message: Message) -> int:
    total = TURN_TOKENS + _content_tokens(message.content) + _optional(message.reasoning)
    if message.tool_calls:
        for call in message.tool_calls:
            total += text_tokens(call.name) + _json_tokens(call.arguments)
    return total


def _optional(text: str | UnsetType) -> int:
    return text_tokens(text) if text else 0


def _content_tokens(content: str | Sequence[ContentBlock]) -> int:
    return text_tokens(content) if isinstance(content, str) else _blocks_tokens(content)


def _blocks_tokens(blocks: Sequence[ContentBlock]) -> int:
    return sum(map(_block_tokens, blocks))


def _block_tokens(block: ContentBlock) -> int:
    match block:
        case TextBlock(text=text) | ThinkingBlock(thinking=text):
            return text_tokens(text)
        case ToolUseBlock():
            return text_tokens(block.name) + _json_tokens(block.input)
        case ToolResultBlock(content=content):
            return _content_tokens(content)
        case _:
            return MEDIA_TOKENS[str(block.__struct_config__.tag)]
