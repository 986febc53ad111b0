"""How hard a request looks, from its words alone. Pure.

A guess for the router and for the thinking budget: cheap enough for every request, and the same
for the same words.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import NamedTuple

from car_rpc.wire.routing import TaskComplexity

#: Longer requests are complex, in characters.
LONG_CHARS = 1200

#: Shorter ones are simple when they are one question, in characters.
SHORT_CHARS = 80

#: How much of a request is read for signals, in characters.
READ_CHARS = 16 * 1024

#: Signals of one kind that make a request one of that kind.
ENOUGH_SIGNALS = 2

_FENCE = re.compile(r"^ {0,3}(```|~~~)", re.MULTILINE)


class Signal(NamedTuple):
    """What is looked for in a text of small letters.

    Attributes:
        pattern: What it is.
        hints: Texts of which one is in whatever the pattern finds; none where it is quick enough
            by itself. To look for these first takes a tenth of the time.
    """

    pattern: re.Pattern[str]
    hints: tuple[str, ...] = ()

    def is_in(self, text: str) -> bool:
        """Whether a text has it."""
        hints = self.hints
        return (not hints or any(hint in text for hint in hints)) and bool(
            self.pattern.search(text)
        )


def _signal(pattern: str, *hints: str) -> Signal:
    return Signal(re.compile(pattern, re.MULTILINE), hints)


#: What code looks like, and what people who want some speak of. Each counts once.
CODE_SIGNALS = (
    _signal(r"^[ \t]*(def|class|fn|func|function|import|from|#include|public|private)\s+\S"),
    _signal(r"\b(const|let|var)\s+\w+\s*=", "="),
    _signal(r"\breturn [^\n]|;$", "return ", ";"),
    _signal(r"\w\([^()\n]{0,99}\)", "("),
    _signal(r"=>|->|::|==|!=|&&|\|\|"),
    _signal(r"^(select|insert|update|delete)\b.{1,200}?\b(from|into|set)\b"),
    _signal(
        r"\w\.(py|js|ts|tsx|rs|go|java|kt|swift|c|cc|cpp|h|rb|php|sql|sh)\b",
        *(".py", ".js", ".ts", ".rs", ".go", ".java", ".kt", ".swift", ".c", ".h", ".rb", ".php"),
        ".s",
    ),
    _signal(
        r"\b(traceback|stack trace|segfault|compile[rs]?|syntax error|unit tests?)\b",
        *("traceback", "stack trace", "segfault", "compile", "syntax error", "unit test"),
    ),
    _signal(
        r"\b(refactor|debug|function|method|class|regex|api|bug|script|codebase)\b",
        *("refactor", "bug", "function", "method", "class", "regex", "api", "script", "codebase"),
    ),
    _signal(
        r"\b(python|javascript|typescript|rust|golang|java|kotlin|swift|sql|bash|c\+\+)(?!\w)",
        *("python", "java", "typescript", "rust", "golang", "kotlin", "swift", "sql", "bash"),
        "c++",
    ),
)

REASONING_MARKERS = (
    _signal(r"\bprov(e|es|ing)\b|\bproof\b", "prov", "proof"),
    _signal(r"\bstep[- ]by[- ]step\b", "step"),
    _signal(r"\bcompar(e|es|ing|ison)\b", "compar"),
    _signal(r"\btrade[- ]?offs?\b", "trade"),
    _signal(r"\bplan(s|ning)?\b", "plan"),
    _signal(r"\barchitectur(e|al)\b", "architectur"),
)


def assess(text: str) -> TaskComplexity:
    """How hard a request looks.

    ``code`` with a fenced block or several signals of code; else ``complex`` when it is long or
    asks for reasoning in several ways; ``simple`` for one short question; else ``medium``.

    Args:
        text: What the user asks.
    """
    length, text = len(text), text[:READ_CHARS].lower()
    if _FENCE.search(text) or _has_enough(CODE_SIGNALS, text):
        return "code"
    if length > LONG_CHARS or _has_enough(REASONING_MARKERS, text):
        return "complex"
    if length < SHORT_CHARS and text.count("?") == 1:
        return "simple"
    return "medium"


def _has_enough(signals: tuple[Signal, ...], text: str) -> bool:
    found = (signal for signal in signals if signal.is_in(text))
    return sum(1 for _ in islice(found, ENOUGH_SIGNALS)) == ENOUGH_SIGNALS
