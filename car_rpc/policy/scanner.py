"""Find the matches of a pattern in a text that comes in pieces. Pure.

The first match is the leftmost one, of those the longest, and the next one begins behind it. A text
is decided up to where a match may still begin that is not over yet.
"""

from __future__ import annotations

from typing import NamedTuple

from car_rpc.policy.automaton import Automaton, State
from car_rpc.policy.syntax import Program


class Span(NamedTuple):
    """A match, in characters from the beginning of the whole text."""

    start: int
    end: int


class Scanner:
    """Reads one text.

    Args:
        program: The pattern; it does not match the empty text.
        automaton: The same, shared by all texts.
    """

    def __init__(self, program: Program, automaton: Automaton) -> None:
        self._first = program.first
        self._automaton = automaton
        self._text = ""  # from one character before what is not decided
        self._offset = 0  # of it in the whole text
        self._start = 0  # a match may begin here, in it
        self._at: int = 0  # the next character to look at, in it
        self._state: State | None = None  # within a match, or nothing before one
        self._longest = 0  # end of the longest match that begins at the start

    @property
    def decided(self) -> int:
        """Up to here everything is known, in characters from the beginning of the whole text."""
        return self._offset + self._start

    def push(self, text: str) -> list[Span]:
        """The next piece; returns the matches that are known with it."""
        kept = max(0, self._start - 1)
        self._text = self._text[kept:] + text
        self._offset += kept
        self._start -= kept
        self._at -= kept
        self._longest -= kept
        return self._run(final=False)

    def end(self) -> list[Span]:
        """Nothing follows; returns the last matches."""
        return self._run(final=True)

    def _run(self, *, final: bool) -> list[Span]:
        text, step = self._text, self._automaton.step
        spans: list[Span] = []
        while self._begin(text):
            state, at = self._state, self._at
            while state is not None and (at < len(text) or final):
                is_found, state = step(state, text[at : at + 1])
                if is_found:
                    self._longest = at
                at += 1
            self._state, self._at = state, at
            if state is not None:
                break  # it goes on in the next piece
            if self._longest > self._start:
                spans.append(Span(self._offset + self._start, self._offset + self._longest))
                self._start = self._longest
            else:
                self._start += 1
        return spans

    def _begin(self, text: str) -> bool:
        """Go to where the next match may begin, if there is one and none is under way."""
        if self._state is not None:
            return True
        match = self._first.search(text, self._start)
        self._start = len(text) if match is None else match.start()
        if match is None:
            return False
        self._at = self._longest = self._start
        self._state = self._automaton.start(text[self._start - 1] if self._start else "")
        return True
