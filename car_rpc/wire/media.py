"""The images and recordings of a conversation: which blocks they are, and how much is taken.

Whoever counts them, names them or reads them goes through them in this order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from car_rpc.wire.content import AudioBlock, ContentBlock, ImageBlock, Message, ToolResultBlock
from car_rpc.wire.models import Capability

#: A block that a model on this machine looks at or listens to.
MediaBlock: TypeAlias = ImageBlock | AudioBlock

#: What a model in a GGUF file can do only with a projector, which makes tokens of images and sound.
SENSES: frozenset[Capability] = frozenset(
    {"vision", "grounding", "audio_understanding", "video_understanding"}
)

#: Most images and recordings of one request to a model on this machine.
MAX_MEDIA = 32

#: Largest file of one of them, in bytes. A photo of 50 megapixels has 20 million.
MAX_MEDIUM_BYTES = 32 * 1024 * 1024


def media_of(messages: Sequence[Message]) -> list[MediaBlock]:
    """The images and recordings of a conversation, those in results of tools included."""
    return [
        block
        for message in messages
        if not isinstance(message.content, str)
        for block in _media_of(message.content)
    ]


def _media_of(blocks: Sequence[ContentBlock]) -> Iterator[MediaBlock]:
    for block in blocks:
        if isinstance(block, ImageBlock | AudioBlock):
            yield block
        elif isinstance(block, ToolResultBlock) and not isinstance(block.content, str):
            yield from _media_of(block.content)
