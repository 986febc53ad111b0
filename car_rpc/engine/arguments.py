"""The arguments of one tool call, as they come. Pure.

Some senders stream them in pieces, some send all so far each time, and some repeat the whole at
the end. What comes in any of these ways is passed on in pieces.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import msgspec

#: Deepest nesting of a tool call's arguments: with what the protocol and the event log put around
#: them, whatever is told of them stays below the depth that peers accept.
MAX_ARGUMENTS_DEPTH = 100


class Arguments:
    """JSON text that is still coming.

    A piece that begins with all the text so far is taken for all so far when the next one begins
    with it in turn, or when it is an object by itself. Until that is known it is held back,
    because an object may hold another that begins alike: ``{"a":`` and then ``{"a":1}}``.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._size = 0
        #: A piece that may be all so far.
        self._unsure: str | None = None
        #: Whether pieces that begin with all so far are known to be that.
        self._repeats = False
        self._parsed: tuple[dict[str, Any] | None] | None = None

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces) + self._held_back()

    def push(self, piece: str) -> str:
        """Take the next piece; returns what can be passed on."""
        self._parsed = None
        told = ""
        if self._unsure is not None:
            unsure, self._unsure = self._unsure, None
            self._repeats = piece.startswith(unsure)
            told = self._add(unsure[self._size :] if self._repeats else unsure)
        if not self._begins_with_all(piece):
            return told + self._add(piece)
        if self._repeats:
            return told + self._add(piece[self._size :])
        self._unsure = piece
        return told

    def settle(self) -> str:
        """No more is expected; returns what was held back."""
        told = self._add(self._held_back())
        self._unsure = None
        return told

    def parsed(self) -> dict[str, Any] | None:
        """The arguments, of which there may be none; ``None`` when they are no object.

        One that nests too deep for those who read it is none.
        """
        if self._parsed is None:
            self._parsed = (parsed_arguments(self.text),)
        return self._parsed[0]

    def _add(self, piece: str) -> str:
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)
        return piece

    def _begins_with_all(self, piece: str) -> bool:
        if not self._size or len(piece) < self._size:
            return False
        text = "".join(self._pieces)
        return text.lstrip().startswith("{") and piece.startswith(text)

    def _held_back(self) -> str:
        if self._unsure is None:
            return ""
        is_all = _object(self._unsure) is not None
        return self._unsure[self._size :] if is_all else self._unsure


def parsed_arguments(text: str) -> dict[str, Any] | None:
    """As :meth:`Arguments.parsed`, of all of them."""
    text = text.strip()
    return _object(text) if text else {}


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if _within(value, MAX_ARGUMENTS_DEPTH) else None


def _within(value: Any, levels: int) -> bool:
    """Whether a JSON value nests at most so many arrays and objects."""
    if not isinstance(value, dict | list):
        return True
    children = cast("Iterable[Any]", value.values() if isinstance(value, dict) else value)
    return levels > 0 and all(_within(child, levels - 1) for child in children)
