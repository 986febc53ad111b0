"""Read calls behind the marker that opened them, and keep what turns out to be none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from car_rpc.wire.events import StreamEvent, TextDelta
from car_rpc.workers.text.calls.source import BadToolCall, Source
from car_rpc.workers.text.scan import scan

if TYPE_CHECKING:
    from collections.abc import Generator

    from car_rpc.workers.text.calls.families import Family
    from car_rpc.workers.text.calls.writer import CallWriter


class Reading:
    """What follows a marker that opens calls.

    Args:
        family: How the model writes.
        calls: The calls of the answer.
        opening: The marker; empty for an answer that begins with a call.
        held: White space before it, which is part of the text if no call follows.
    """

    def __init__(self, family: Family, calls: CallWriter, opening: str, held: str) -> None:
        self._source = Source()
        self._reader = family.read(self._source, calls)
        self._calls = calls
        self._calls_before = calls.count
        self._opening = opening
        self._closing = family.closing
        self._held = held
        self._problem: BadToolCall | None = None
        self._spoiled = ""

    @property
    def is_whole(self) -> bool:
        """Whether all was read as calls."""
        return self._problem is None

    def feed(self, text: str) -> Generator[StreamEvent, None, str | None]:
        """Add output; returns what follows the calls, or ``None`` while they go on."""
        if self._problem is not None:
            return (yield from self._keep(text))
        self._source.feed(text)
        try:
            for event in self._reader:
                if event is None:
                    return None
                yield event
        except (BadToolCall, RecursionError) as error:
            problem = error if isinstance(error, BadToolCall) else BadToolCall("nested too deeply")
            return (yield from self._fail(problem))
        return self._source.rest()

    def finish(self, text: str) -> Generator[StreamEvent, None, str]:
        """The output ended with this; returns what follows the calls."""
        self._source.ended = True
        rest = yield from self.feed(text)
        if rest is None and self._problem is not None:
            yield from self._tell(self._problem)
        return rest or ""

    def _fail(self, problem: BadToolCall) -> Generator[StreamEvent, None, str | None]:
        self._problem = problem
        is_first = self._calls.count == self._calls_before
        self._spoiled = (self._opening if is_first else "") + self._source.raw
        if not is_first:
            self._held = ""
        if not self._opening and not self._calls.is_open:
            # Not every answer in brackets is a call.
            yield TextDelta(text=self._held + self._spoiled)
            return self._source.rest()
        return (yield from self._keep(self._source.rest()))

    def _keep(self, text: str) -> Generator[StreamEvent, None, str | None]:
        """Go on to the end of what looks like a call."""
        found = scan(self._spoiled + text, (self._closing,) if self._closing else ())
        if found.marker is None:
            self._spoiled += text
            return None
        self._spoiled = found.before + found.marker
        yield from self._tell(self._problem or BadToolCall(""))
        return found.rest

    def _tell(self, problem: BadToolCall) -> Generator[StreamEvent, None, None]:
        yield from self._calls.failed(self._held, self._spoiled, problem)
