"""Tell of calls, each piece in the one form that the core knows."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, cast

from car_rpc.wire.events import (
    ContentBlockStop,
    StreamEvent,
    TextDelta,
    ToolCallCancel,
    ToolCallDelta,
    ToolCallStart,
    ToolParseError,
)
from car_rpc.workers.text.calls.schema import types_of
from car_rpc.workers.text.calls.source import BadToolCall, parsed

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from car_rpc.workers.text.calls.source import Source


#: What a tool may be called.
_NAME = re.compile(r"[^\s\"'`(){}\[\]<>]+")

_TEXT = frozenset({"string"})


class CallWriter:
    """The calls of one answer.

    Args:
        tools: The tools that may be called, in OpenAI's shape.

    Attributes:
        count: How many calls are whole.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self.count = 0
        self._tools = {tool["function"]["name"]: tool["function"] for tool in tools}
        self._ids: set[str] = set()
        self._open_id = ""
        self._members = 0

    def types(self, name: str, parameter: str) -> frozenset[str]:
        """The types that a tool's parameter may have; one that is not declared is a text."""
        schema: Any = self._tools.get(name, {}).get("parameters")
        keywords = cast("dict[str, Any]", schema) if isinstance(schema, dict) else {}
        declared, others = keywords.get("properties"), keywords.get("additionalProperties")
        if isinstance(declared, dict) and parameter in declared:
            return types_of(cast("dict[str, Any]", declared)[parameter], schema)
        return types_of(others, schema) if isinstance(others, dict) else _TEXT

    def is_text(self, name: str, parameter: str) -> bool:
        """Whether a tool's parameter can only be a text."""
        return self.types(name, parameter) == _TEXT

    def start(self, name: str, call_id: str = "") -> ToolCallStart:
        """A call begins."""
        if not is_name(name):
            raise BadToolCall(
                "it has no name" if not name else f"{name[:40]!r} is no name of a tool"
            )
        fresh = call_id and call_id not in self._ids
        self._open_id = call_id if fresh else f"call_{self.count}"
        self._ids.add(self._open_id)
        self._members = 0
        return ToolCallStart(index=self.count, id=self._open_id, name=name)

    def arguments(self, text: str) -> ToolCallDelta:
        """More of the arguments, as JSON."""
        return ToolCallDelta(index=self.count, id=self._open_id, arguments_delta=text)

    def member(self, name: str, value: str) -> ToolCallDelta:
        """Another argument, whose value is whole, as JSON."""
        return self.arguments(self.key(name) + value)

    def key(self, name: str) -> str:
        """What comes before the value of another argument."""
        opening = ", " if self._members else "{"
        self._members += 1
        return f"{opening}{json.dumps(name, ensure_ascii=False)}: "

    def end_members(self) -> ToolCallDelta:
        """All arguments were told by name."""
        return self.arguments("}" if self._members else "{}")

    def end(self) -> ContentBlockStop:
        """The call is whole."""
        index = self.count
        self.count += 1
        self._open_id = ""
        return ContentBlockStop(index=index)

    def json_arguments(self, source: Source) -> Generator[StreamEvent | None, None, None]:
        """Read a JSON object of arguments, telling of it as it comes."""
        opening = yield from source.peek()
        if opening != "{":
            raise BadToolCall("its arguments are no JSON object")
        check_object((yield from source.json(self.arguments)))

    @property
    def is_open(self) -> bool:
        """Whether a call was told of that is not whole."""
        return bool(self._open_id)

    def failed(self, held: str, raw: str, problem: BadToolCall) -> Iterator[StreamEvent]:
        """What was read is no call after all: it stays in the text, behind what was held back."""
        reason = str(problem)
        if self._open_id:
            yield ToolCallCancel(index=self.count, id=self._open_id, reason=reason)
            self._open_id = ""
        yield TextDelta(text=held + raw)
        yield ToolParseError(index=self.count, raw=raw, message=reason)


def is_name(text: str) -> bool:
    """Whether a tool may be called so."""
    return _NAME.fullmatch(text) is not None


def check_object(text: str) -> str:
    """The text of a JSON object.

    Raises:
        BadToolCall: It is none.
    """
    if not isinstance(parsed(text), dict):
        raise BadToolCall("its arguments are no JSON object")
    return text
