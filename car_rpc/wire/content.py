"""Conversation content: messages, content blocks, tools and tool calls."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, UnsetType

from car_rpc.wire.base import WireStruct


class Base64Source(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="base64"):
    """Media carried in the message itself."""

    media_type: str
    data: str


class UrlSource(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="url"):
    """Media behind a URL. The core never fetches it; local models refuse it."""

    url: str


class PathSource(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="path"):
    """A file below the state directory or an allowed root."""

    path: str


Source: TypeAlias = Base64Source | UrlSource | PathSource


class TextBlock(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """Plain text."""

    text: str


class ImageBlock(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="image"):
    """An image."""

    source: Source


class AudioBlock(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="audio"):
    """A sound recording."""

    source: Source


class VideoBlock(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="video"):
    """A video."""

    source: Source


class DocumentBlock(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="document"):
    """A document such as a PDF."""

    source: Source
    title: str | UnsetType = UNSET


class ToolUseBlock(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="tool_use"):
    """A tool call made by the assistant, as a content block."""

    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="tool_result"):
    """What a tool answered, as a content block."""

    tool_use_id: str
    content: str | list[TextBlock | ImageBlock]


class ThinkingBlock(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="thinking"):
    """Reasoning that a model showed earlier; ``signature`` is the provider's own."""

    thinking: str
    signature: str | UnsetType = UNSET


ContentBlock: TypeAlias = (
    TextBlock
    | ImageBlock
    | AudioBlock
    | VideoBlock
    | DocumentBlock
    | ToolUseBlock
    | ToolResultBlock
    | ThinkingBlock
)


class ToolCall(WireStruct, frozen=True, kw_only=True):
    """A call of a tool that a model asks for."""

    id: str
    name: str
    arguments: dict[str, Any]


class Message(WireStruct, frozen=True, kw_only=True):
    """One turn of a conversation.

    Attributes:
        role: Who speaks.
        content: Text, or blocks in order.
        tool_calls: Calls that an assistant turn made.
        tool_call_id: In a tool turn, the call that it answers.
        reasoning: Reasoning text that went with an assistant turn.
        provider_output_items: Opaque items that go back to the same provider only.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[ContentBlock] = ""
    tool_calls: list[ToolCall] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    provider_output_items: list[Any] | UnsetType = UNSET


class ToolFunction(WireStruct, frozen=True, kw_only=True):
    """The function that a tool offers; ``parameters`` is a JSON Schema object."""

    name: str
    description: str | UnsetType = UNSET
    parameters: dict[str, Any] | UnsetType = UNSET


class Tool(WireStruct, frozen=True, kw_only=True):
    """A tool in OpenAI's shape."""

    type: Literal["function"]
    function: ToolFunction
