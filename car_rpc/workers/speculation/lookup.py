"""Draft what followed the last tokens where they stood before, in the prompt or in the answer.

Edits, code, quotes and JSON say much again that was said before (Saxena, "Prompt Lookup
Decoding", 2023). It takes no second model, and some microseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Fewest tokens that must have stood there before; one alone says too little.
MIN_MATCH = 2

#: Most that are compared: what more of them are alike makes no difference.
MAX_MATCH = 16


class Lookup:
    """Drafts from one text at a time.

    Args:
        room: Most tokens of a text.
    """

    #: Nothing has to be read before it can draft.
    unread = 0

    def __init__(self, room: int) -> None:
        self._text = np.empty(room, np.int32)
        self._length = 0
        self._next = 0

    def begin(self) -> None:
        """Another text begins."""
        self._length = 0

    def follow(self, read: Sequence[int], pending: Sequence[int]) -> int | None:
        """Take what was added to the text.

        Args:
            read: Tokens that the model has read; all that were there before are among them.
            pending: Those that it has not.

        Returns:
            The kind of the draft that can be made: the better, the higher. ``None`` for no draft.
        """
        for tokens in (read[self._length :], pending):
            end = self._length + len(tokens)
            self._text[self._length : end] = tokens
            self._length = end
        match, self._next = self._longest_match()
        return match.bit_length() if match >= MIN_MATCH else None

    def draft(self, count: int) -> list[int]:
        """So many tokens. A text that has begun to repeat itself goes on doing so."""
        return np.resize(self._text[self._next : self._length], count).tolist()

    def _longest_match(self) -> tuple[int, int]:
        """How many of the last tokens stood before, and the place after the last time they did."""
        text, last = self._text[: self._length], self._length - 1
        length, place = 0, 0
        ends = np.flatnonzero(text[:last] == text[last])
        while ends.size and length < MAX_MATCH:
            length, place = length + 1, int(ends[-1]) + 1
            ends = ends[ends >= length]
            ends = ends[text[ends - length] == text[last - length]]
        return length, place
