r"""Regular expressions that take linear time: from a pattern to a program. Pure.

The syntax is Python's, without what needs backtracking: no references, no looking around, no
possessive or atomic groups. There are characters, ``.``, classes, ``\d \w \s`` and their opposites,
``\b \B ^ $``, groups, ``|``, the quantifiers ``* + ? {m,n}``, and ``(?i)`` and ``(?s)`` in front.
``^`` and ``$`` are the beginning and the end of the text.

The program is that of Thompson's construction (Communications of the ACM 11(6), 1968), which
:mod:`car_rpc.policy.automaton` runs. What one character may be is left to :mod:`re`: a single
class cannot go wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

#: Most instructions of a program: repeats are written out.
MAX_PROGRAM = 2048

#: Most times that something is repeated, and deepest nesting of groups.
MAX_REPEATS = 1000
MAX_DEPTH = 24

#: A length that is not bounded.
UNBOUNDED = 1 << 40


class Char(NamedTuple):
    """Takes a character, if it fits."""

    fits: Callable[[str], object]
    next: int


class Split(NamedTuple):
    """Goes on in two ways."""

    one: int
    other: int


Place: TypeAlias = Literal["start", "end", "boundary", "no_boundary"]


class Assert(NamedTuple):
    """Goes on in a place of this kind only."""

    place: Place
    next: int


class Found(NamedTuple):
    """Here a match ends."""


Instruction: TypeAlias = Char | Split | Assert | Found


class Program(NamedTuple):
    """A pattern, ready to run.

    Attributes:
        code: Its instructions.
        entry: The first one.
        shortest: Characters of its shortest match.
        longest: Characters of its longest match, or :data:`UNBOUNDED`.
        first: Finds a character that a match may begin with.
    """

    code: list[Instruction]
    entry: int
    shortest: int
    longest: int
    first: re.Pattern[str]


#: Puts a part of a pattern before the instruction with this number; returns its own first one.
_Emit: TypeAlias = Callable[[int], int]


class _Part(NamedTuple):
    emit: _Emit
    shortest: int
    longest: int


_FLAGS = re.compile(r"\(\?([is]+)\)")
_CLASS = re.compile(r"\[\^?\]?(?:[^\]\\]|\\.)*\]", re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[dDwWsSnrtfv]|[^0-9A-Za-z])", re.DOTALL
)
_COUNT = re.compile(r"\{(\d{0,9})(?:(,)(\d{0,9}))?\}")
_PLACES: dict[str, Place] = {
    "^": "start", "$": "end", r"\A": "start", r"\Z": "end", r"\b": "boundary", r"\B": "no_boundary",
}  # fmt: skip

# Reserved for operations on sets, which Python warns of and does not have.
_IN_CLASS = re.compile(r"\\.|[\[&~|]", re.DOTALL)


def compiled(pattern: str) -> Program:
    """The program of a pattern.

    Raises:
        ValueError: It is no such pattern, or its program is too large; says what is wrong.
    """
    return _Parser(pattern).program()


class _Parser:
    def __init__(self, pattern: str) -> None:
        match = _FLAGS.match(pattern)
        flags = match[1] if match else ""
        self._flags = (re.IGNORECASE if "i" in flags else 0) | (re.DOTALL if "s" in flags else 0)
        self._text = pattern
        self._at = match.end() if match else 0
        self._depth = 0
        self._code: list[Instruction] = []
        self._sources: dict[int, str] = {}
        self._predicates: dict[str, Callable[[str], object]] = {}

    def program(self) -> Program:
        whole = self._alternatives()
        if self._at < len(self._text):
            raise self._wrong("a `)` without its `(`")
        end = self._add(Found())
        entry = whole.emit(end)
        return Program(self._code, entry, whole.shortest, whole.longest, self._first(entry))

    # Parts

    def _alternatives(self) -> _Part:
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        if len(parts) == 1:
            return parts[0]

        def emit(then: int) -> int:
            entry = parts[-1].emit(then)
            for part in reversed(parts[:-1]):
                entry = self._add(Split(part.emit(then), entry))
            return entry

        return _Part(emit, min(p.shortest for p in parts), max(p.longest for p in parts))

    def _sequence(self) -> _Part:
        parts: list[_Part] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            parts.append(self._quantified(self._atom()))

        def emit(then: int) -> int:
            for part in reversed(parts):
                then = part.emit(then)
            return then

        longest = min(UNBOUNDED, sum(part.longest for part in parts))
        return _Part(emit, sum(part.shortest for part in parts), longest)

    def _atom(self) -> _Part:
        if self._take("("):
            return self._group()
        for mark, place in _PLACES.items():
            if self._take(mark):
                return self._place(place)
        text, at = self._text, self._at
        if text[at] in "*+?{":
            raise self._wrong(f"`{text[at]}` has nothing to repeat; write \\{text[at]} for itself")
        if text[at] == "[":
            source = self._whole(_CLASS, "a class without its `]`")
            if "--" in source:
                raise self._wrong(r"write \- for a hyphen in a class")
            head = 2 if source.startswith("[^") else 1
            body = _IN_CLASS.sub(lambda m: m[0] if len(m[0]) > 1 else "\\" + m[0], source[head:])
            return self._char(source[:head] + body)
        if text[at] == "\\":
            return self._char(self._whole(_ESCAPE, "an escape that is not known here"))
        self._at += 1
        return self._char("." if text[at] == "." else re.escape(text[at]))

    def _group(self) -> _Part:
        if self._take("?") and not self._take(":"):
            raise self._wrong("of groups with `(?` there is only `(?:`")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong(f"groups nest deeper than {MAX_DEPTH}")
        inner = self._alternatives()
        self._depth -= 1
        if not self._take(")"):
            raise self._wrong("a `(` without its `)`")
        return inner

    def _place(self, place: Place) -> _Part:
        def emit(then: int) -> int:
            return self._add(Assert(place, then))

        return _Part(emit, 0, 0)

    def _char(self, source: str) -> _Part:
        fits = self._predicates.get(source)
        if fits is None:
            try:
                fits = self._predicates[source] = re.compile(source, self._flags).fullmatch
            except re.error as error:
                raise self._wrong(f"{source}: {error.msg}") from None

        def emit(then: int) -> int:
            number = self._add(Char(fits, then))
            self._sources[number] = source
            return number

        return _Part(emit, 1, 1)

    def _quantified(self, part: _Part) -> _Part:
        bounds = self._bounds()
        if bounds is None:
            return part
        least, most = bounds
        if not part.longest:
            raise self._wrong("what is repeated matches nothing but the empty text")
        self._take("?")  # a reluctant one matches the same texts
        if self._text[self._at : self._at + 1] in ("*", "+", "?") or self._bounds() is not None:
            raise self._wrong("two quantifiers follow each other")

        def emit(then: int) -> int:
            if most is None:
                loop = self._add(Found())  # its place; what stands there follows
                self._code[loop] = Split(part.emit(loop), then)
                entry = loop
            else:
                entry = then
                for _ in range(most - least):
                    entry = self._add(Split(part.emit(entry), then))
            for _ in range(least):
                entry = part.emit(entry)
            return entry

        longest = UNBOUNDED if most is None else min(UNBOUNDED, part.longest * most)
        return _Part(emit, part.shortest * least, longest)

    def _bounds(self) -> tuple[int, int | None] | None:
        """How often the part before is repeated, where a quantifier says so."""
        for mark, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(mark):
                return bounds
        match = _COUNT.match(self._text, self._at)
        if match is None or match[0] in ("{}", "{,}"):
            return None
        self._at = match.end()
        least = int(match[1] or 0)
        most = (int(match[3]) if match[3] else None) if match[2] else least
        if max(least, most or 0) > MAX_REPEATS or (most is not None and most < least):
            raise self._wrong(f"{match[0]}: counts go up, to {MAX_REPEATS} at most")
        return least, most

    # Text and code

    def _take(self, mark: str) -> bool:
        taken = self._text.startswith(mark, self._at)
        self._at += len(mark) * taken
        return taken

    def _whole(self, token: re.Pattern[str], otherwise: str) -> str:
        match = token.match(self._text, self._at)
        if match is None:
            raise self._wrong(otherwise)
        self._at = match.end()
        return match[0]

    def _add(self, instruction: Instruction) -> int:
        if len(self._code) >= MAX_PROGRAM:
            raise ValueError("it is too large: its repeats stand for too many characters")
        self._code.append(instruction)
        return len(self._code) - 1

    def _first(self, entry: int) -> re.Pattern[str]:
        sources: set[str] = set()
        seen, waiting = {entry}, [entry]
        while waiting:
            number = waiting.pop()
            instruction = self._code[number]
            reached: tuple[int, ...] = ()
            if isinstance(instruction, Char):
                sources.add(self._sources[number])
            elif isinstance(instruction, Split):
                reached = instruction
            elif isinstance(instruction, Assert):
                reached = (instruction.next,)
            waiting += [each for each in reached if each not in seen]
            seen.update(reached)
        return re.compile("|".join(sorted(sources)) or "(?!)", self._flags)

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"{what} (at character {self._at + 1})")
