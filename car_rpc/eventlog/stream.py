"""Replace secrets in the events of a stream, also where they are split over deltas. Pure.

Deltas of one kind are read as one text. What may still turn out to be a secret is held back, with
all events behind it; everything else passes at once. Every delta keeps its place: the replacement
stands in the one where the secret began, and the others lose what belonged to it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from car_rpc.eventlog.redact import redact
from car_rpc.wire.events import (
    ContentBlockStop,
    ReasoningDelta,
    Stop,
    StreamEvent,
    StreamReset,
    TextDelta,
    ToolCallDelta,
    UsageEvent,
)

if TYPE_CHECKING:
    import re

    from car_rpc.eventlog.shapes import Secrets

#: Most characters of one text that are held back. Longer than any key but the longest private
#: ones, of which the beginning suffices.
MAX_HELD_CHARS = 16 * 1024

#: Most events that wait for what is held back.
MAX_HELD_EVENTS = 256

#: Events without a text.
_PLAIN = (ContentBlockStop, Stop, UsageEvent)


class _Held:
    """An event on its way; a delta of it may be known in part."""

    __slots__ = ("changed", "event", "left", "parts")

    def __init__(self, event: StreamEvent, left: int = 0, *, changed: bool = False) -> None:
        self.event = event
        self.parts: list[str] = []
        self.left = left  # characters that are not decided
        self.changed = changed

    def result(self) -> StreamEvent:
        if not self.changed or not self.parts:
            return self.event
        text = "".join(self.parts)
        if isinstance(self.event, ToolCallDelta):
            return msgspec.structs.replace(self.event, arguments_delta=text)
        return msgspec.structs.replace(self.event, text=text)


class _Text:
    """The deltas of one kind."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._text = ""  # what is not decided, and some of what goes before
        self._begin = 0  # a secret may begin here
        self._passed = 0  # all before is passed on
        self._rest: re.Pattern[str] | None = None  # of a secret that still goes on
        self._deltas: deque[_Held] = deque()  # with text that is not passed on

    def push(self, held: _Held, text: str) -> None:
        """The next delta."""
        kept = max(0, self._begin - self._secrets.context_chars)
        self._text = self._text[kept:] + text
        self._begin -= kept
        self._passed -= kept
        self._deltas.append(held)
        self._decide(final=False)
        if len(self._text) - self._passed > MAX_HELD_CHARS:
            self.cut()

    def passes(self, text: str) -> bool:
        """Take the next delta if it shows nothing of a secret; tells whether it was taken."""
        if self._deltas or self._rest is not None or self._begin < len(self._text):
            return False
        before = self._text[-self._secrets.context_chars :]
        joined = before + text
        if not self._secrets.is_plain(joined, len(before)):
            return False
        self._text = joined[-self._secrets.context_chars :]
        self._begin = len(self._text)
        self._passed = self._begin
        return True

    def end(self) -> None:
        """Nothing follows: what is no secret now is none."""
        self._decide(final=True)

    def cut(self) -> None:
        """Pass everything on now. What has begun as a secret is taken for one."""
        end = len(self._text)
        opening = self._secrets.opening(self._text, self._begin)
        if opening is None or not opening.replacement:
            self._keep(end)  # and if more of it follows, that is found
            return
        self._keep(opening.start + opening.kept)
        self._replace(end, opening.replacement)
        self._begin, self._rest = end, opening.rest

    def release(self) -> None:
        """Pass on what shows no more than a few letters of a secret."""
        if self._deltas and self._secrets.tell_beginnings:
            opening = self._secrets.opening(self._text, self._begin)
            if opening is None or not opening.replacement:
                self._keep(len(self._text))

    def _decide(self, *, final: bool) -> None:
        text = self._text
        if self._rest is not None:
            match = self._rest.match(text, self._passed)
            self._begin = self._passed if match is None else match.end()
            self._replace(self._begin, "")
            if self._begin == len(text):
                return
            self._rest = None
        if not self._secrets.may_open(text, self._begin):
            self._begin = len(text)
            self._keep(len(text))
            return
        spans = self._secrets.find(text, self._begin)
        decided = len(text)
        if not final:
            decided = self._secrets.undecided(text, self._begin)
            for span in reversed(spans):
                if span.end > decided or span.end == len(text):
                    decided = min(decided, span.start)
        for span in spans:
            if span.end <= decided:
                self._keep(span.start + span.kept)
                self._replace(span.end, span.replacement)
        self._keep(decided)
        self._begin = decided

    def _keep(self, end: int) -> None:
        """Pass on the text up to a place as it is."""
        while self._passed < end:
            delta = self._deltas[0]
            start, stop = self._passed, min(end, self._passed + delta.left)
            delta.parts.append(self._text[start:stop])
            self._pass(stop)

    def _replace(self, end: int, replacement: str) -> None:
        """Pass on a replacement for the text up to a place."""
        while self._passed < end:
            delta = self._deltas[0]
            delta.changed = True
            delta.parts.append(replacement)
            replacement = ""
            self._pass(min(end, self._passed + delta.left))

    def _pass(self, end: int) -> None:
        delta = self._deltas[0]
        delta.left -= end - self._passed
        self._passed = end
        if not delta.left:
            self._deltas.popleft()


class StreamRedactor:
    """The events of one stream, with secrets replaced.

    Args:
        secrets: What is replaced.
    """

    def __init__(self, secrets: Secrets) -> None:
        #: Whether something was replaced in the events that the last call returned.
        self.changed = False
        self._secrets = secrets
        self._texts: dict[object, _Text] = {}  # by the kind of delta, or the call's number
        self._waiting: deque[_Held] = deque()

    def push_all(self, events: list[StreamEvent]) -> list[StreamEvent]:
        """Take the next events; returns those that are known as a whole, in order."""
        if not self._waiting and set(map(type, events)) == {TextDelta}:  # as nearly always
            text = self._text_of(TextDelta)
            if text.passes("".join([event.text for event in events])):  # type: ignore[union-attr]  # see above
                self.changed = False
                return events
        known: list[StreamEvent] = []
        changed = False
        for event in events:
            known += self.push(event)
            changed = changed or self.changed
        self.changed = changed
        return known

    def push(self, event: StreamEvent) -> list[StreamEvent]:
        """Take the next event; returns the events that are known as a whole, in order."""
        text, said = self._part(event)
        if text is not None and not self._waiting and text.passes(said):  # as nearly all do
            self.changed = False
            return [event]
        for other in self._texts.values():
            if other is not text:
                other.release()
        if isinstance(event, StreamReset):
            self._end()  # nothing goes on with what is dropped
        held = self._searched(event) if text is None else _Held(event, len(said))
        self._waiting.append(held)
        if text is not None and said:
            text.push(held, said)
        if len(self._waiting) > MAX_HELD_EVENTS:
            self._cut()
        return self._ready()

    def cut(self) -> list[StreamEvent]:
        """What is held back, because something happens now that must not wait.

        What has begun as a secret is taken for one, since the stream may go on with the rest.
        """
        self._cut()
        return self._ready()

    def end(self) -> list[StreamEvent]:
        """What is held back, because nothing follows."""
        self._end()
        return self._ready()

    def _part(self, event: StreamEvent) -> tuple[_Text | None, str]:
        """The text that an event is a part of, and the part."""
        key: object
        if isinstance(event, TextDelta | ReasoningDelta):
            key, said = type(event), event.text
        elif isinstance(event, ToolCallDelta):
            key, said = event.index, event.arguments_delta
        else:
            return None, ""
        return self._text_of(key), said

    def _text_of(self, key: object) -> _Text:
        text = self._texts.get(key)
        if text is None:
            text = self._texts[key] = _Text(self._secrets)
        return text

    def _searched(self, event: StreamEvent) -> _Held:
        """An event that stands for itself."""
        if isinstance(event, _PLAIN):
            return _Held(event)
        plain = msgspec.to_builtins(event)
        redacted = redact(plain, self._secrets)
        if redacted == plain:
            return _Held(event)
        return _Held(msgspec.convert(redacted, StreamEvent), changed=True)

    def _cut(self) -> None:
        for text in self._texts.values():
            text.cut()

    def _end(self) -> None:
        for text in self._texts.values():
            text.end()
        self._texts.clear()

    def _ready(self) -> list[StreamEvent]:
        self.changed = False
        ready: list[StreamEvent] = []
        while self._waiting and not self._waiting[0].left:
            held = self._waiting.popleft()
            self.changed = self.changed or held.changed
            ready.append(held.result())
        return ready
