"""Tell answer, reasoning and tool calls apart in what a model says.

What stands between the markers of reasoning is reasoning when it comes first; what follows the
marker of calls is calls, as far as it can be read; the rest is the answer. The newlines that chat
formats put around these blocks are dropped. Whatever does not parse stays in the text; nothing is
ever lost.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from car_rpc.wire.events import ReasoningDelta, StreamEvent, TextDelta
from car_rpc.workers.text.calls.families import HERMES
from car_rpc.workers.text.calls.reading import Reading
from car_rpc.workers.text.calls.writer import CallWriter
from car_rpc.workers.text.scan import scan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from car_rpc.workers.text.calls.families import Family


class _State(enum.Enum):
    START = enum.auto()  # nothing but white space so far: reasoning may still begin
    THINK = enum.auto()
    TEXT = enum.auto()
    CALL = enum.auto()


class Segmenter:
    """Turns output text, in pieces of any size, into stream events.

    Args:
        tools: The tools that the request offers; without any, calls are plain text.
        family: How the model writes.
        in_reasoning: Whether the prompt already opened the reasoning block.
        in_text: Whether the prompt already holds the beginning of the text.

    Attributes:
        entered: What followed the last marker in the piece that it ended in; ``None`` after a
            piece in which none ended.
    """

    def __init__(
        self,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        family: Family = HERMES,
        in_reasoning: bool = False,
        in_text: bool = False,
    ) -> None:
        begun = _State.TEXT if in_text else _State.START
        self._state = _State.THINK if in_reasoning else begun
        self._family = family
        self._think_open, self._think_close = family.think
        self._opening = (family.opening,) if tools and family.opening else ()
        self._bare = family.bare if tools else ""
        self._calls = CallWriter(tools)
        self._reading: Reading | None = None
        self._pending = ""  # may begin a marker
        self._held = ""  # white space that may turn out to belong to the next block
        self._skip_newlines = in_reasoning
        self.entered: str | None = None

    @property
    def in_reasoning(self) -> bool:
        """Whether a reasoning block is open."""
        return self._state is _State.THINK

    @property
    def in_header(self) -> bool:
        """Whether a message is being begun, which has no header here."""
        return False

    @property
    def in_call(self) -> bool:
        """Whether a call is being read."""
        return self._state is _State.CALL

    @property
    def calls(self) -> int:
        """How many calls are whole."""
        return self._calls.count

    def feed(self, text: str) -> Iterator[StreamEvent]:
        """Add output; yields the events that are certain now."""
        self.entered = None
        self._pending += text
        while True:
            if self._reading is not None:
                rest = yield from self._reading.feed(self._take_pending())
                if rest is None:
                    return
                self._leave_call(rest)
            elif self._is_bare_call():
                self._enter_call("", self._pending.lstrip())
            else:
                before, marker, self._pending = scan(self._pending, self._markers())
                yield from self._content(before)
                if marker is None:
                    return
                yield from self._enter(marker)

    def finish(self) -> Iterator[StreamEvent]:
        """The output ended: yields what was held back."""
        if self._reading is not None:
            rest = yield from self._reading.finish(self._take_pending())
            self._leave_call(rest)
        rest, self._pending = self._pending, ""
        yield from self._content(rest)
        if self._state is not _State.THINK and self._held:
            yield TextDelta(text=self._held)

    def _take_pending(self) -> str:
        pending, self._pending = self._pending, ""
        return pending

    def _markers(self) -> tuple[str, ...]:
        if self._state is _State.THINK:
            return (self._think_close,)
        opening = self._opening
        return (self._think_open, *opening) if self._state is _State.START else opening

    def _content(self, text: str) -> Iterator[StreamEvent]:
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
        yield ReasoningDelta(text=shown) if self.in_reasoning else TextDelta(text=shown)

    def _trailing(self, text: str) -> int:
        """Length of the white space at the end that may belong to the next block."""
        if self._state is _State.START:
            return len(text)
        if self._state is _State.TEXT and not self._opening:
            return 0
        return len(text) - len(text.rstrip("\n"))

    def _enter(self, marker: str) -> Iterator[StreamEvent]:
        if marker in self._opening:
            self._enter_call(marker, self._pending)
        elif marker == self._think_open and self._state is not _State.START:
            # Text came before it in the same piece: it is no more than a word of the answer.
            yield from self._content(marker)
        else:
            self._held = ""
            self._skip_newlines = True
            opens = marker == self._think_open
            self._state = _State.THINK if opens else _State.TEXT
            self.entered = self._pending

    def _is_bare_call(self) -> bool:
        """Whether the answer begins as a call does that no marker opens."""
        is_first = self._state is _State.START and self._bare
        return bool(is_first) and self._pending.lstrip().startswith(self._bare)

    def _enter_call(self, opening: str, body: str) -> None:
        self._reading = Reading(self._family, self._calls, opening, self._held)
        self._state, self._held = _State.CALL, ""
        self.entered = self._pending = body

    def _leave_call(self, rest: str) -> None:
        self._skip_newlines = self._reading is not None and self._reading.is_whole
        self._reading = None
        self._state = _State.TEXT
        self.entered = self._pending = rest
