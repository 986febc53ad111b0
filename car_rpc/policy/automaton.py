"""Run the program of a pattern: each character is looked at a bounded number of times. Pure.

A state is a set of places in the program, as in Thompson's simulation, and what follows from it is
kept, so that a text is mostly read by looking up one character after the other.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from car_rpc.policy.syntax import Assert, Char, Program, Split

#: How much is kept of what follows from what, in places; then all is forgotten.
MAX_KEPT = 100_000

_WORD = re.compile(r"\w")


class _Context(NamedTuple):
    """A side of a place in a text: whether there is a character, and whether of a word."""

    exists: bool
    is_word: bool


_NOTHING = _Context(exists=False, is_word=False)
_CONTEXTS = {word: _Context(exists=True, is_word=word) for word in (False, True)}


class State:
    """Where a match may be, and what follows from it; made by :class:`Automaton` alone."""

    __slots__ = ("before", "moves", "places")

    def __init__(self, places: frozenset[int], before: _Context) -> None:
        self.places = places
        self.before = before
        self.moves: dict[str, tuple[bool, State | None]] = {}


class Automaton:
    """Follows matches of a program through a text.

    Args:
        program: The pattern.
        anywhere: Whether a match may begin at any character, and not only at the first one.
    """

    def __init__(self, program: Program, *, anywhere: bool = False) -> None:
        self._code = program.code
        self._entry = frozenset({program.entry})
        self._again = self._entry if anywhere else frozenset[int]()
        self._states: dict[tuple[frozenset[int], _Context], State] = {}
        #: How much is kept, as :data:`MAX_KEPT` counts it.
        self.kept = 0

    def start(self, before: str) -> State:
        """The state in front of a match, behind a character or, for an empty text, at the start."""
        return self._state(self._entry, _context(before))

    def step(self, state: State, char: str) -> tuple[bool, State | None]:
        """Go on with the next character, or with an empty text at the end.

        Returns:
            Whether a match ends before it, and the next state, if a longer one is possible.
        """
        known = state.moves.get(char)
        if known is None:
            known = self._move(state, char)
            self.kept += 1 + (0 if known[1] is None else len(known[1].places))
            if self.kept > MAX_KEPT:
                self.kept = 0
                self._states.clear()
                state.moves = {}
            state.moves[char] = known
        return known

    def _move(self, state: State, char: str) -> tuple[bool, State | None]:
        after = _context(char)
        is_found = False
        follow: set[int] = set()
        seen, waiting = set(state.places), [*state.places]
        while waiting:
            instruction = self._code[waiting.pop()]
            reached: tuple[int, ...] = ()
            if isinstance(instruction, Char):
                if char and instruction.fits(char):
                    follow.add(instruction.next)
            elif isinstance(instruction, Split):
                reached = instruction
            elif isinstance(instruction, Assert):
                if _holds(instruction, state.before, after):
                    reached = (instruction.next,)
            else:
                is_found = True
            waiting += [place for place in reached if place not in seen]
            seen.update(reached)
        if char:
            follow |= self._again
        return is_found, self._state(frozenset(follow), after) if follow else None

    def _state(self, places: frozenset[int], before: _Context) -> State:
        state = self._states.get((places, before))
        if state is None:
            state = self._states[places, before] = State(places, before)
        return state


def found(automaton: Automaton, text: str) -> bool:
    """Whether there is a match anywhere in a text; for an automaton made with ``anywhere``."""
    state: State | None = automaton.start("")
    for char in (*text, ""):
        if state is None:
            return False
        is_found, state = automaton.step(state, char)
        if is_found:
            return True
    return False


def _context(char: str) -> _Context:
    return _CONTEXTS[_WORD.match(char) is not None] if char else _NOTHING


def _holds(instruction: Assert, before: _Context, after: _Context) -> bool:
    match instruction.place:
        case "start":
            return not before.exists
        case "end":
            return not after.exists
        case "boundary":
            return before.is_word != after.is_word
        case "no_boundary":
            return before.is_word == after.is_word
