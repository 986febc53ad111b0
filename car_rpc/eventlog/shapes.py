"""What a secret looks like: the known shapes, and patterns that the user configured. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

#: Characters before a text that decide whether something begins in it.
CONTEXT_CHARS = 1

#: From so many characters of its beginning a configured pattern must match, to be found where a
#: text comes in pieces. As much is held back, because no pattern tells how it begins.
PATTERN_CHARS = 128

#: What stands for a match of a configured pattern.
_PATTERN_REPLACEMENT = "[redacted:pattern]"

_LOWER = bytes(range(256)).lower()

# Up to this length one search for any beginning is faster than one for each.
_SHORT_CHARS = 256


class Span(NamedTuple):
    """A secret in a text, and what stands for it but for some characters that are kept."""

    start: int
    end: int
    replacement: str
    kept: int = 0


class Opening(NamedTuple):
    """A text ends in what may be a secret.

    Attributes:
        start: Where that begins.
        replacement: What stands for it, or nothing while it shows no more than a few letters
            that begin a word just as well.
        rest: What of the text that follows would belong to it.
        kept: Characters of its beginning that are kept.
    """

    start: int
    replacement: str = ""
    rest: re.Pattern[str] | None = None
    kept: int = 0


class _Shape(NamedTuple):
    """A kind of secret.

    Attributes:
        kind: Stands in the replacement.
        mark: A character of every match that base64 has not, or nothing. To look for one
            character is ten times faster than for several, and the longest texts are base64.
        hint: Text without which the pattern cannot match; finding it is far cheaper than the
            pattern, and most events hold none.
        pattern: Linear in the length of the text: what may repeat without bound begins at a
            boundary or cannot be matched again by what follows. A group that it begins with
            is kept.
        opening: Text that every match begins with.
        begun: A match or what may become one, where it reaches the end of the text.
        rest: What goes on with a match.
        any_case: Whether hint and opening, in lower case here, may be written in any.
    """

    kind: str
    mark: str
    hint: str
    pattern: re.Pattern[str]
    opening: str
    begun: re.Pattern[str]
    rest: re.Pattern[str]
    any_case: bool = False

    @property
    def replacement(self) -> str:
        return f"[redacted:{self.kind}]"

    def opened(self, match: re.Match[str]) -> Opening:
        """What it means that ``begun`` matched at the end of a text."""
        kept = _kept(match)
        if kept == len(match[0]):
            return Opening(match.start())
        return Opening(match.start(), self.replacement, self.rest, kept)


def _prefixed(
    kind: str,
    mark: str,
    prefix: str,
    body: str,
    count: str,
    before: str = "(?<![A-Za-z0-9])",
    after: str = "",
) -> _Shape:
    """A fixed prefix and then so many characters of a class."""
    # Where a match may hold further prefixes, none of them is to be tried: that would take
    # quadratic time. Where it cannot, what a prefix cuts off may begin the next.
    end = "" if re.fullmatch(f"{body}*", prefix) else r"\Z"
    return _Shape(
        kind,
        mark,
        prefix,
        re.compile(f"{before}{prefix}{body}{count}{after}", re.ASCII),
        prefix,
        re.compile(f"{before}{prefix}{body}*+{end}", re.ASCII),
        re.compile(f"{body}*", re.ASCII),
    )


# A key goes on to its END line, or to the end of what is there, since output may have been cut.
_KEY_REST = (
    r"(?:[^-]|-(?!----))*+"
    r"(?:-----END [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----"
    r"|-----(?:E(?:N(?:D(?: [A-Z0-9 ]{0,52}-{0,4})?)?)?)?\Z)?"
)
_KEY = rf"-----BEGIN [A-Z0-9 ]{{0,32}}PRIVATE KEY(?: BLOCK)?-----{_KEY_REST}"

_SHAPES = (
    _Shape(
        "private_key",
        "-",
        "-----BEGIN ",
        re.compile(_KEY),
        "-----BEGIN ",
        re.compile(rf"{_KEY}|-----BEGIN [A-Z0-9 ]{{0,52}}-{{0,4}}"),
        re.compile(_KEY_REST),
    ),
    _Shape(
        "jwt",
        ".",
        ".eyJ",
        # Without its signature too.
        re.compile(r"(?<![\w-])eyJ[\w-]{8,}+\.eyJ[\w-]{8,}+(?:\.[\w-]*)?", re.ASCII),
        "eyJ",
        re.compile(r"(?<![\w-])eyJ[\w-]*+(?:\.(?:e(?:y(?:J[\w-]*+(?:\.[\w-]*+)?)?)?)?)?", re.ASCII),
        re.compile(r"[\w.-]*", re.ASCII),
    ),
    _prefixed("api_key", "-", "sk-", "[A-Za-z0-9_-]", "{16,}"),
    _prefixed("github_token", "_", "github_pat_", "[A-Za-z0-9_]", "{20,}", before=""),
    *(
        _prefixed("github_token", "_", prefix, "[A-Za-z0-9]", "{20,}")
        for prefix in ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")
    ),
    _prefixed(
        *("aws_key", "", "AKIA", "[A-Z0-9]", "{16}"),
        before="(?<![A-Za-z0-9+/])",
        after="(?![A-Za-z0-9+/=])",
    ),
    _prefixed(
        *("google_key", "", "AIza", r"[\w-]", "{35}"),
        before=r"(?<![\w+/-])",
        after=r"(?![\w-])",
    ),
    _Shape(
        "slack_token",
        "-",
        "xox",
        re.compile(r"(?<![A-Za-z0-9])xox[abeoprs]-[A-Za-z0-9-]{10,}"),
        "xox",
        re.compile(r"(?<![A-Za-z0-9])xox(?:[abeoprs](?:-[A-Za-z0-9-]*+)?)?"),
        re.compile("[A-Za-z0-9-]*"),
    ),
    _prefixed("huggingface_token", "_", "hf_", "[A-Za-z0-9]", "{30,}"),
    _Shape(
        "bearer_token",
        " ",
        "bearer ",
        # A digit or the length tells a token from a word: "the bearer instruments".
        re.compile(
            r"(?<![A-Za-z0-9])((?i:bearer) {1,8})"
            r"(?:(?=[A-Za-z._~+/=-]{0,64}[0-9])[\w.~+/=-]{8,}|[\w.~+/=-]{20,})",
            re.ASCII,
        ),
        "bearer ",
        re.compile(r"(?<![A-Za-z0-9])((?i:bearer) {1,8})[\w.~+/=-]*+\Z", re.ASCII),
        re.compile(r"[\w.~+/=-]*", re.ASCII),
        any_case=True,
    ),
)


def _endings() -> str:
    """A pattern of the beginnings of all openings, the longest first, each backwards."""
    endings: list[tuple[int, str]] = []
    for shape in _SHAPES:
        flag = "(?i:%s)" if shape.any_case else "%s"
        is_bounded = shape.pattern.pattern.startswith("(?<!")
        before = "(?![A-Za-z0-9])" if is_bounded else ""
        for length in range(1, len(shape.opening)):
            letters = re.escape(shape.opening[:length][::-1])
            endings.append((-length, flag % letters + before))
    return "|".join(pattern for _, pattern in sorted(set(endings)))


def _trait(shape: _Shape) -> str:
    """A pattern of what is rare in prose and in every opening of a shape."""
    if shape.any_case:
        return f"[{shape.opening[0].upper()}{shape.opening[0]}](?i:{shape.opening[1:]})"
    rare = re.search("[^a-z]", shape.opening)
    return re.escape(rare[0] if rare else shape.opening)


# Most deltas have neither, and to see that must be cheap.
_TRAITS = re.compile("|".join(sorted({_trait(shape) for shape in _SHAPES})))
_ENDING_BACKWARDS = re.compile(_endings())
_LONGEST_OPENING = max(len(shape.opening) for shape in _SHAPES)


def hinting(text: bytes) -> bytes:
    """What of an encoded text hints are looked for in: all but digits, in lower case.

    What stands together in a text does so in this. Vectors, the longest results, are digits.
    """
    return text.translate(_LOWER, b"0123456789")


class Secrets:
    """All that is looked for in a text.

    Args:
        shapes: Whether the known shapes are.
        patterns: Whatever else is; see :class:`car_rpc.eventlog.privacy.PrivacyPolicy`.
    """

    def __init__(self, *, shapes: bool = True, patterns: Sequence[re.Pattern[str]] = ()) -> None:
        self._shapes = _SHAPES if shapes else ()
        self._patterns = patterns
        self._marks = ("", *{shape.mark for shape in self._shapes if shape.mark})
        self._hints = tuple({hinting(shape.hint.encode()) for shape in self._shapes})
        #: How much of the text before the end of what was searched is to be kept.
        self.context_chars = PATTERN_CHARS if patterns else CONTEXT_CHARS
        #: Whether a text shows where a secret begins in it, also before all of it is there.
        self.tell_beginnings = not patterns

    def may_be_in(self, hints: bytes) -> bool:
        """Whether an encoded text without escapes can hold any, by what :func:`hinting` leaves."""
        return bool(self._patterns) or any(hint in hints for hint in self._hints)

    def replace(self, text: str) -> str:
        """The text with a replacement for every secret."""
        spans = self.find(text)
        if not spans:
            return text
        parts: list[str] = []
        at = 0
        for start, end, replacement, kept in spans:
            parts += (text[at : start + kept], replacement)
            at = end
        return "".join((*parts, text[at:]))

    def find(self, text: str, begin: int = 0) -> list[Span]:
        """The secrets that begin at or after a place, in order; none overlaps another."""
        spans: list[Span] = []
        marks = {mark for mark in self._marks if mark in text}
        for shape in self._shapes:
            if shape.mark in marks and shape.hint in (text.lower() if shape.any_case else text):
                spans += (
                    Span(match.start(), match.end(), shape.replacement, _kept(match))
                    for match in shape.pattern.finditer(text, begin)
                )
        for pattern in self._patterns:
            spans += (
                Span(match.start(), match.end(), _PATTERN_REPLACEMENT)
                for match in pattern.finditer(text, begin)
                if match[0]
            )
        return _merged(spans) if len(spans) > 1 else spans

    def opening(self, text: str, begin: int = 0) -> Opening | None:
        """What may be a secret at the end of a text, from its beginning; the longest there is."""
        if not self.may_open(text, begin):
            return None
        openings: list[Opening] = []
        marks = {mark for mark in self._marks if mark in text}
        for shape in self._shapes:
            if shape.mark in shape.opening and shape.mark not in marks:
                continue
            if shape.opening in (text.lower() if shape.any_case else text):
                openings += (
                    shape.opened(match)
                    for match in shape.begun.finditer(text, begin)
                    if match.end() == len(text)
                )
        for pattern in self._patterns:
            openings += (
                Opening(match.start(), _PATTERN_REPLACEMENT)
                for match in pattern.finditer(text, begin)
                if match[0] and match.end() == len(text)
            )
        if self._shapes and not openings:
            start = _first_letters(text, begin)
            openings += [Opening(start)] if start < len(text) else []
        return min(openings, key=lambda opening: opening.start, default=None)

    def may_open(self, text: str, begin: int = 0) -> bool:
        """Whether anything in the text may be a secret, or the beginning of one at its end."""
        if self._patterns or len(text) - begin > _SHORT_CHARS:
            return True
        if not self._shapes:
            return False
        return (
            _TRAITS.search(text, begin) is not None
            or _ENDING_BACKWARDS.match(text[: -_LONGEST_OPENING - 1 : -1]) is not None
        )

    def is_plain(self, text: str, begin: int) -> bool:
        """Whether nothing in the text from a place on is a secret, or the beginning of one."""
        if len(text) - begin <= _SHORT_CHARS:
            return not self.may_open(text, begin)
        return self.opening(text, begin) is None and not (self._patterns or self.find(text, begin))

    def undecided(self, text: str, begin: int) -> int:
        """From where on a text shows nothing yet; what goes before is decided."""
        opening = self.opening(text, begin)
        start = len(text) if opening is None else opening.start
        if self._patterns:
            start = min(start, max(begin, len(text) - PATTERN_CHARS))
        return start


#: The known shapes and nothing else.
KNOWN = Secrets()
#: Nothing.
NONE = Secrets(shapes=False)


def _first_letters(text: str, begin: int) -> int:
    """Where the last characters of a text begin that may begin an opening; its end if none do."""
    match = _ENDING_BACKWARDS.match(text[: -_LONGEST_OPENING - 1 : -1])
    return len(text) if match is None else max(begin, len(text) - match.end())


def _kept(match: re.Match[str]) -> int:
    return len(match[1]) if match.re.groups else 0


def _merged(spans: list[Span]) -> list[Span]:
    spans.sort(key=lambda span: (span.start, -span.end))
    merged = [spans[0]]
    for span in spans[1:]:
        last = merged[-1]
        if span.start >= last.end:
            merged.append(span)
        elif span.end > last.end:
            merged[-1] = last._replace(end=span.end)
    return merged
