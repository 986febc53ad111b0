"""How hard a request looks, from its words alone. Pure.

A guess for the router and for the thinking budget: cheap enough for every request, and the same
for the same words.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

TaskComplexity: TypeAlias = Literal["simple", "medium", "code", "complex"]

#: Longer requests are complex, in characters.
LONG_CHARS = 1200

#: Shorter ones are simple when they are one question, in characters.
SHORT_CHARS = 80

#: How much of a request is read for signals, in characters.
READ_CHARS = 16 * 1024

#: Signals of one kind that make a request one of that kind.
ENOUGH_SIGNALS = 2

_FENCE = re.compile(r"^ {0,3}(```|~~~)", re.MULTILINE)

#: What code looks like, and what people who want some speak of. Each counts once.
_CODE_SIGNALS = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        r"^[ \t]*(def|class|fn|func|function|import|from|#include|public|private)\s+\S",
        r"\b(const|let|var)\s+\w+\s*=",
        r"\breturn [^\n]|;$",
        r"\w\([^()\n]{0,99}\)",
        r"=>|->|::|==|!=|&&|\|\|",
        r"^(SELECT|INSERT|UPDATE|DELETE)\b.{1,200}?\b(FROM|INTO|SET)\b",
        r"\w\.(py|js|ts|tsx|rs|go|java|kt|swift|c|cc|cpp|h|rb|php|sql|sh)\b",
        r"\b(traceback|stack trace|segfault|compile[rs]?|syntax error|unit tests?)\b",
        r"\b(refactor|debug|function|method|class|regex|api|bug|script|codebase)\b",
        r"\b(python|javascript|typescript|rust|golang|java|kotlin|swift|sql|bash|c\+\+)(?!\w)",
    )
)

_REASONING_MARKERS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\bprov(e|es|ing)\b|\bproof\b",
        r"\bstep[- ]by[- ]step\b",
        r"\bcompar(e|es|ing|ison)\b",
        r"\btrade[- ]?offs?\b",
        r"\bplan(s|ning)?\b",
        r"\barchitectur(e|al)\b",
    )
)


def assess(text: str) -> TaskComplexity:
    """How hard a request looks.

    ``code`` with a fenced block or several signals of code; else ``complex`` when it is long or
    asks for reasoning in several ways; ``simple`` for one short question; else ``medium``.

    Args:
        text: What the user asks.
    """
    length, text = len(text), text[:READ_CHARS]
    if _FENCE.search(text) or _signals(_CODE_SIGNALS, text) >= ENOUGH_SIGNALS:
        return "code"
    if length > LONG_CHARS or _signals(_REASONING_MARKERS, text) >= ENOUGH_SIGNALS:
        return "complex"
    if length < SHORT_CHARS and text.count("?") == 1:
        return "simple"
    return "medium"


def _signals(patterns: tuple[re.Pattern[str], ...], text: str) -> int:
    return sum(1 for pattern in patterns if pattern.search(text))
