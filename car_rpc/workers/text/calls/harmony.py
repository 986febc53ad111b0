"""Tell answer, reasoning and calls apart in the channels of gpt-oss (OpenAI's Harmony format).

An answer is a row of messages, each ``HEADER<|message|>BODY<|end|>``, the first of which the prompt
has begun. The header names the channel and, for a call, who gets it:
``<|channel|>commentary to=functions.NAME <|constrain|>json``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from car_rpc.wire.events import ReasoningDelta, StreamEvent, TextDelta
from car_rpc.workers.text.calls.source import BadToolCall, Source
from car_rpc.workers.text.calls.writer import CallWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

START, CHANNEL, MESSAGE = "<|start|>assistant", "<|channel|>", "<|message|>"
ENDS: Final = ("<|end|>", "<|call|>", "<|return|>")

#: What an engine must show of them; it never says the last two, which end an answer.
MARKERS: Final = ("<|start|>", CHANNEL, MESSAGE, "<|constrain|>", *ENDS)

_RECIPIENT: Final = re.compile(r"to=functions\.([^\s<]+)")
_CHANNEL: Final = re.compile(r"<\|channel\|>\s*(\w+)")


class HarmonySegmenter:
    """Turns output text, in pieces of any size, into stream events.

    Args:
        tools: The tools that the request offers; without any, calls are plain text.
        in_text: Whether the prompt already holds the beginning of the text.

    Attributes:
        entered: What followed the last header, or the last reasoning, in the piece that it ended
            in; ``None`` after a piece in which none ended. Of a call it begins with the line of
            its tool's name.
    """

    def __init__(self, *, tools: Sequence[Mapping[str, Any]] = (), in_text: bool = False) -> None:
        self._source = Source()
        self._calls = CallWriter(tools)
        self._has_tools = bool(tools)
        self._place = "text" if in_text else "header"
        self._reader = self._messages(in_text=in_text)
        self.entered: str | None = None

    @property
    def in_reasoning(self) -> bool:
        """Whether neither text nor a call has begun since the last message."""
        return self._place in ("header", "analysis")

    @property
    def in_header(self) -> bool:
        """Whether a message is being begun."""
        return self._place == "header"

    @property
    def in_call(self) -> bool:
        """Whether a call is being read."""
        return self._place == "call"

    @property
    def calls(self) -> int:
        """How many calls are whole."""
        return self._calls.count

    def feed(self, text: str) -> Iterator[StreamEvent]:
        """Add output; yields the events that are certain now."""
        self.entered = None
        self._source.feed(text)
        for event in self._reader:
            if event is None:
                return
            yield event

    def finish(self) -> Iterator[StreamEvent]:
        """The output ended: yields what was held back."""
        self._source.ended = True
        yield from self.feed("")

    def _messages(self, *, in_text: bool) -> Generator[StreamEvent | None, None, None]:
        if in_text:
            yield from self._body(_text)
        while (yield from self._source.peek()):
            self._source.commit()
            self._place = "header"
            try:
                yield from self._message()
            except BadToolCall as problem:
                yield from self._kept(problem)
            if self.in_reasoning:  # what follows belongs to the next header
                self._place, self.entered = "header", self._source.unread

    def _message(self) -> Generator[StreamEvent | None, None, None]:
        yield from self._source.maybe(START)
        header, _ = yield from self._source.until(MESSAGE)
        self.entered = self._source.unread
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        if recipient is not None and self._has_tools:
            self._place = "call"
            self.entered = f"{recipient[1]}\n{self._source.unread.lstrip()}"
            yield from self._source.space()
            yield self._calls.start(recipient[1])
            yield from self._calls.json_arguments(self._source)
            yield from self._source.space()
            for end in ENDS:
                if (yield from self._source.maybe(end)):
                    break
            yield self._calls.end()
        elif channel is not None and channel[1] == "analysis":
            self._place = "analysis"
            yield from self._body(_reasoning)
        else:
            self._place = "text"
            yield from self._body(_text)

    def _body(
        self, tell: Callable[[str], StreamEvent]
    ) -> Generator[StreamEvent | None, None, None]:
        """Tell of a body as it comes; the end of the output ends it, too."""
        try:
            yield from self._source.stream_until(*ENDS, tell=tell)
        except BadToolCall:
            if rest := self._source.rest():
                yield tell(rest)

    def _kept(self, problem: BadToolCall) -> Generator[StreamEvent | None, None, None]:
        """What could not be read is text, to its end."""
        raw = self._source.raw
        while True:
            raw += self._source.rest()
            if self._source.ended:
                break
            yield None
        if self._place == "call":
            yield from self._calls.failed("", raw, problem)
        else:
            yield TextDelta(text=raw)


def _text(text: str) -> StreamEvent:
    return TextDelta(text=text)


def _reasoning(text: str) -> StreamEvent:
    return ReasoningDelta(text=text)
