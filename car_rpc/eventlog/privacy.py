"""How much of what is said the event log keeps, where a request does not say. Pure."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, Struct

from car_rpc.eventlog.shapes import Secrets
from car_rpc.wire.inference import PrivacyLevel

#: Longest pattern, in characters.
MAX_PATTERN_CHARS = 256
MAX_PATTERNS = 32

# A repeated group may take exponential time to search for. What is escaped, and a class, is none.
_NO_GROUP = re.compile(r"\\.|\[\^?\]?(?:[^\]\\]|\\.)*\]", re.DOTALL)
_REPEATED_GROUP = re.compile(r"\)\s*[*+{]")

Pattern = Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN_CHARS)]


class PrivacyPolicy(Struct, frozen=True, kw_only=True):
    r"""What the event log keeps.

    Attributes:
        level: How much it keeps of a request that does not say with ``privacy``: ``metadata``,
            ``redacted`` or ``full``. Keys and header values are never kept.
        patterns: Regular expressions of Python for what is replaced as secrets are, such as
            ``'ACME-\d{6,}'``. With any, the last 128 characters of an answer that is
            under way are not written yet.
    """

    level: PrivacyLevel = "redacted"
    patterns: Annotated[list[Pattern], Meta(max_length=MAX_PATTERNS)] = []

    def __post_init__(self) -> None:
        """Check the patterns.

        Raises:
            ValueError: One does not compile, matches the empty text, or repeats a group.
        """
        for number, pattern in enumerate(self.patterns, start=1):
            said = _mistake(pattern)
            if said:
                raise ValueError(f"pattern {number} of `patterns` {said}")

    def secrets(self) -> Secrets:
        """What is replaced at the level ``redacted``."""
        return Secrets(patterns=[re.compile(pattern) for pattern in self.patterns])


def _mistake(pattern: str) -> str | None:
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"is no regular expression: {error}"
    if compiled.search("") is not None:
        return "matches the empty text"
    if _REPEATED_GROUP.search(_NO_GROUP.sub("x", pattern)):
        return "repeats a group, which may take without end; repeat a class such as `[a-z ]`"
    return None
