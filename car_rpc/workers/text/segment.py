"""Tell answer, reasoning and tool calls apart in the output of Qwen and Hermes models.

``<think>…</think>`` at the start is reasoning, ``<tool_call>{json}</tool_call>`` is a call, the
rest is the answer. The newlines that the chat format puts around these blocks are dropped.
Whatever does not parse stays in the text; nothing is ever lost.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from car_rpc.wire.events import (
    ContentBlockStop,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    ToolParseError,
)
from car_rpc.workers.text.scan import scan
from car_rpc.workers.text.toolcall import BadToolCall, parse_tool_call

if TYPE_CHECKING:
    from collections.abc import Iterator

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"

#: The markers that an engine must show even where its vocabulary calls them special.
MARKERS = (THINK_OPEN, THINK_CLOSE, CALL_OPEN, CALL_CLOSE)


class _State(enum.Enum):
    START = enum.auto()  # nothing but white space so far: reasoning may still begin
    THINK = enum.auto()
    TEXT = enum.auto()
    CALL = enum.auto()


class Segmenter:
    """Turns output text, in pieces of any size, into stream events.

    Args:
        tools: Whether the request offers tools; without them ``<tool_call>`` is plain text.
        in_reasoning: Whether the prompt already opened the reasoning block.
        in_text: Whether the prompt already holds the beginning of the text.
    """

    def __init__(self, *, tools: bool, in_reasoning: bool = False, in_text: bool = False) -> None:
        begun = _State.TEXT if in_text else _State.START
        self._state = _State.THINK if in_reasoning else begun
        self._tools = tools
        self._pending = ""  # may begin a marker
        self._held = ""  # white space that may turn out to belong to the next block
        self._skip_newlines = in_reasoning
        self._body: list[str] = []
        self.calls = 0
        #: What followed the last marker in the piece that it ended in; ``None`` for a piece in
        #: which none ended.
        self.entered: str | None = None

    @property
    def in_reasoning(self) -> bool:
        """Whether a reasoning block is open."""
        return self._state is _State.THINK

    def feed(self, text: str) -> Iterator[StreamEvent]:
        """Add output; yields the events that are certain now."""
        self._pending += text
        self.entered = None
        marker: str | None = ""
        while marker is not None:
            before, marker, self._pending = scan(self._pending, self._markers())
            yield from self._content(before)
            if marker is not None:
                self.entered = self._pending
                yield from self._enter(marker)

    def finish(self) -> Iterator[StreamEvent]:
        """The output ended: yields what was held back."""
        rest, self._pending = self._pending, ""
        yield from self._content(rest)
        if self._state is _State.CALL:
            yield from self._call(closing="")
        elif self._state is not _State.THINK and self._held:
            yield TextDelta(text=self._held)

    def _markers(self) -> tuple[str, ...]:
        if self._state is _State.THINK:
            return (THINK_CLOSE,)
        if self._state is _State.CALL:
            return (CALL_CLOSE,)
        opening = (CALL_OPEN,) if self._tools else ()
        return (THINK_OPEN, *opening) if self._state is _State.START else opening

    def _content(self, text: str) -> Iterator[StreamEvent]:
        if self._state is _State.CALL:
            self._body.append(text)
            return
        if self._skip_newlines:
            text = text.lstrip("\n")
        if not text:
            return
        self._skip_newlines = False
        if self._state is _State.START and text.strip():
            self._state = _State.TEXT
        kept = text[: len(text) - self._trailing(text)]
        if not kept:
            self._held += text
            return
        shown, self._held = self._held + kept, text[len(kept) :]
        is_reasoning = self._state is _State.THINK
        yield ReasoningDelta(text=shown) if is_reasoning else TextDelta(text=shown)

    def _trailing(self, text: str) -> int:
        """Length of the white space at the end that may belong to the next block."""
        if self._state is _State.START:
            return len(text)
        if self._state is _State.TEXT and not self._tools:
            return 0
        return len(text) - len(text.rstrip("\n"))

    def _enter(self, marker: str) -> Iterator[StreamEvent]:
        if marker == CALL_CLOSE:
            self._state = _State.TEXT
            yield from self._call(closing=marker)
        elif marker == CALL_OPEN:
            self._state = _State.CALL
        elif marker == THINK_OPEN and self._state is not _State.START:
            # Text came before it in the same piece: it is no more than a word of the answer.
            yield from self._content(marker)
        else:
            self._held = ""
            self._skip_newlines = True
            self._state = _State.THINK if marker == THINK_OPEN else _State.TEXT

    def _call(self, closing: str) -> Iterator[StreamEvent]:
        body, self._body = "".join(self._body), []
        index = self.calls
        try:
            name, arguments = parse_tool_call(body)
        except BadToolCall as problem:
            raw = CALL_OPEN + body + closing
            held, self._held = self._held, ""
            yield TextDelta(text=held + raw)
            yield ToolParseError(index=index, raw=raw, message=str(problem))
            return
        self._held = ""
        self._skip_newlines = True
        self.calls += 1
        call_id = f"call_{index}"
        yield ToolCallStart(index=index, id=call_id, name=name)
        yield ToolCallDelta(index=index, id=call_id, arguments_delta=arguments)
        yield ContentBlockStop(index=index)
