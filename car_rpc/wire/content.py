"""Conversation content: messages, content blocks, tools and tool calls."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, UnsetType

from car_rpc.wire.base import WireStruct


class Base64Source(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="base64"):
    """Media carried in the message itself.

    Attributes:
        media_type: For example ``image/png``.
        data: Base64 of the bytes.
    """

    media_type: str
    data: str


class UrlSource(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="url"):
    """Media behind a URL. The core never fetches it; local models refuse it.

    Attributes:
        url: The address.
    """

    url: str


class PathSource(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="path"):
    """A file below the state directory or an allowed root.

    Attributes:
        path: The file; symbolic links are followed before it is judged.
    """

    path: str


Source: TypeAlias = Base64Source | UrlSource | PathSource


class TextBlock(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """Plain text.

    Attributes:
        text: The text.
    """

    text: str


class ImageBlock(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="image"):
    """An image.

    Attributes:
        source: The image.
    """

    source: Source


class AudioBlock(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="audio"):
    """A sound recording.

    Attributes:
        source: The recording.
    """

    source: Source


class VideoBlock(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="video"):
    """A video.

    Attributes:
        source: The video.
    """

    source: Source


class DocumentBlock(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="document"):
    """A document such as a PDF.

    Attributes:
        source: The document.
        title: Its title.
    """

    source: Source
    title: str | UnsetType = UNSET


class ToolUseBlock(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="tool_use"):
    """A tool call made by the assistant, as a content block.

    Attributes:
        id: Names the call in the turn that answers it.
        name: Name of the tool.
        input: Arguments by name.
    """

    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="tool_result"):
    """What a tool answered, as a content block.

    Attributes:
        tool_use_id: Id of the call that is answered.
        content: Text, or text and images.
    """

    tool_use_id: str
    content: str | list[TextBlock | ImageBlock]


class ThinkingBlock(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="thinking"):
    """Reasoning that a model showed earlier; ``signature`` is the provider's own.

    Attributes:
        thinking: The reasoning.
        signature: Opaque; goes back to the provider as it came.
    """

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
    """A call of a tool that a model asks for.

    Attributes:
        id: Names the call in the turn that answers it.
        name: Name of the tool.
        arguments: Arguments by name.
    """

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
    """The function that a tool offers; ``parameters`` is a JSON Schema object.

    Attributes:
        name: Name that the model calls it by.
        description: What it does and when to call it, for the model.
        parameters: JSON Schema of its arguments.
    """

    name: str
    description: str | UnsetType = UNSET
    parameters: dict[str, Any] | UnsetType = UNSET


class Tool(WireStruct, frozen=True, kw_only=True):
    """A tool in OpenAI's shape.

    Attributes:
        type: The only type there is.
        function: What may be called.
    """

    type: Literal["function"]
    function: ToolFunction
