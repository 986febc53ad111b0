"""Read output that is still coming, in generators that wait for more."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

from car_rpc.workers.text.scan import scan

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from car_rpc.wire.events import StreamEvent

#: What a reader yields besides events: it needs more output to go on.
MORE: Final = None

#: Characters of a JSON text that say nothing of where it ends.
_INERT: Final = re.compile(r'[^"\\{}\[\]]*')
_IN_STRING: Final = re.compile(r'[^"\\]*')
_WORD: Final = re.compile(r"[\w.+-]*")
_SCALAR: Final = re.compile(r"[^\s,\]}]*")


class BadToolCall(ValueError):
    """What looked like a call is none; the text says why."""


class Source:
    """Output that is still coming.

    All methods that return a generator wait: they yield :data:`MORE` until they know, and return
    the result. At the end of the output they take what there is, or raise :class:`BadToolCall`.
    """

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._committed = 0
        self.ended = False

    def feed(self, text: str) -> None:
        """Add output."""
        self._text = self._text[self._committed :] + text
        self._at -= self._committed
        self._committed = 0

    def commit(self) -> None:
        """What was read until here is done with."""
        self._committed = self._at

    @property
    def raw(self) -> str:
        """What was read since the last :meth:`commit`."""
        return self._text[self._committed : self._at]

    @property
    def unread(self) -> str:
        """What was not read yet."""
        return self._text[self._at :]

    def rest(self) -> str:
        """Take all that was not read yet."""
        rest = self._text[self._at :]
        self._at = len(self._text)
        return rest

    def space(self) -> Generator[None, None, None]:
        """Skip white space."""
        while True:
            while self._at < len(self._text) and self._text[self._at].isspace():
                self._at += 1
            if self._at < len(self._text) or self.ended:
                return
            yield MORE

    def peek(self) -> Generator[None, None, str]:
        """The next character, which is not read; empty at the end."""
        while self._at >= len(self._text) and not self.ended:
            yield MORE
        return self._text[self._at : self._at + 1]

    def maybe(self, literal: str) -> Generator[None, None, bool]:
        """Whether a literal comes next; then it is read."""
        while True:
            available = self._text[self._at : self._at + len(literal)]
            if available == literal:
                self._at += len(literal)
                return True
            if self.ended or not literal.startswith(available):
                return False
            yield MORE

    def close(self, literal: str) -> Generator[None, None, None]:
        """Read a literal behind white space; the end of the output is as good."""
        yield from self.space()
        if (yield from self.peek()):
            yield from self.expect(literal)

    def expect(self, literal: str) -> Generator[None, None, None]:
        """Read a literal."""
        found = yield from self.maybe(literal)
        if not found:
            raise BadToolCall(f"it lacks {literal!r}")

    def until(self, *markers: str) -> Generator[None, None, tuple[str, str]]:
        """Read up to the marker that ends first, and the marker; returns both."""
        while True:
            before, marker, _ = scan(self._text[self._at :], markers)
            if marker is not None:
                self._at += len(before) + len(marker)
                return before, marker
            if self.ended:
                raise BadToolCall(f"it lacks {' or '.join(map(repr, markers))}")
            yield MORE

    def stream_until(
        self, *markers: str, tell: Callable[[str], StreamEvent]
    ) -> Generator[StreamEvent | None, None, None]:
        """Tell of the text up to a marker as it comes, and read the marker."""
        while True:
            before, marker, _ = scan(self._text[self._at :], markers)
            self._at += len(before)
            if before:
                yield tell(before)
            if marker is not None:
                self._at += len(marker)
                return
            if self.ended:
                raise BadToolCall(f"it lacks {markers[0]!r}")
            yield MORE

    def word(self) -> Generator[None, None, str]:
        """Read a name: letters, digits and ``_ . -``."""
        start = self._at - self._committed
        while True:
            match = _WORD.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or self.ended:
                return self._text[self._committed + start : self._at]
            yield MORE

    def json(
        self, tell: Callable[[str], StreamEvent] | None = None
    ) -> Generator[StreamEvent | None, None, str]:
        """Read a JSON value as far as its brackets and quotes go, telling of it as it comes.

        Returns:
            Its text.
        """
        text: list[str] = []
        end = _JsonEnd()
        while True:
            length = end.find(self._text, self._at)
            piece = self._text[self._at : self._at + length]
            self._at += length
            text.append(piece)
            if piece and tell is not None:
                yield tell(piece)
            if end.found or (self.ended and end.may_end):
                return "".join(text)
            if self.ended:
                raise BadToolCall("its JSON is cut")
            yield MORE


class _JsonEnd:
    """Finds where a JSON value ends that comes in pieces."""

    def __init__(self) -> None:
        self.found = False
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._scalar = False

    @property
    def may_end(self) -> bool:
        """Whether the value is whole if nothing follows."""
        return self._scalar

    def find(self, text: str, start: int) -> int:
        """How many characters from ``start`` on belong to the value."""
        at = start
        while at < len(text) and not self.found:
            at = self._step(text, at)
        return at - start

    def _step(self, text: str, at: int) -> int:
        character = text[at]
        if self._escaped:
            self._escaped = False
        elif self._in_string:
            return self._string(text, at)
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            self.found = self._depth <= 0
        elif not self._depth:
            return self._bare(text, at)
        else:
            match = _INERT.match(text, at)
            return max(match.end() if match else at, at + 1)
        return at + 1

    def _string(self, text: str, at: int) -> int:
        if text[at] == "\\":
            self._escaped = True
        elif text[at] == '"':
            self._in_string = False
            self.found = self._depth == 0
        else:
            match = _IN_STRING.match(text, at)
            return match.end() if match else at + 1
        return at + 1

    def _bare(self, text: str, at: int) -> int:
        """A number or a word, which ends before what it cannot hold."""
        match = _SCALAR.match(text, at)
        end = match.end() if match else at
        self._scalar = True
        self.found = end < len(text)
        return end


def parsed(text: str) -> Any:
    """A JSON value.

    Raises:
        BadToolCall: It is none.
    """
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BadToolCall(str(error) or "nested too deeply") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
