"""Write a grammar in llguidance's kind of Lark, rule by rule."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from llguidance import LLMatcher

from car_rpc.workers.text.calls.families import INDEX, LINE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from car_rpc.workers.constraint.vocabulary import GuideVocabulary


#: What stands for something else in the texts of a family's calls.
_PLACES: Final = {INDEX: "/[0-9]{1,2}/", LINE: '"\\n"?'}
_PLACE: Final = re.compile(f"({'|'.join(map(re.escape, _PLACES))})")


class Rules:
    """The rules of one grammar; one that was written before is used again.

    Args:
        vocabulary: Whose tokens the markers may be.
    """

    def __init__(self, vocabulary: GuideVocabulary) -> None:
        self._vocabulary = vocabulary
        self._names: dict[str, str] = {}
        self._bodies: dict[str, str] = {}

    def said(self, markup: str) -> str:
        """What a family writes itself, in which markers are tokens where there are such."""
        return " ".join(self._pieces(markup))

    def ended(self, inner: str, markup: str) -> str:
        """A terminal and what ends it, in one piece: where one ends shows only behind it."""
        first, *others = self._pieces(markup)
        if first.startswith('"'):
            return " ".join([self.terminal(f"{inner} {first}"), *others])
        return " ".join([inner, first, *others])

    def rule(self, body: str) -> str:
        """The name of a rule."""
        return self._named("rule_", body)

    def terminal(self, body: str) -> str:
        """The name of a terminal, which is read as one piece."""
        return self._named("PIECE_", body)

    def reserve(self) -> str:
        """The name of a rule that is defined later, as of something that may hold itself."""
        return self._named("rule_", f"({len(self._names)})")

    def define(self, name: str, body: str) -> None:
        """Say what a reserved name stands for."""
        self._bodies[name] = body

    def grammar(self, start: str) -> str:
        """The whole grammar.

        Args:
            start: The body of the first rule.
        """
        lines = [f"{name}: {body}" for name, body in self._bodies.items()]
        return LLMatcher.grammar_from_lark("\n".join([f"start: {start}", *lines]))

    def _pieces(self, markup: str) -> list[str]:
        return [
            piece
            for part in _PLACE.split(markup)
            for piece in ([_PLACES[part]] if part in _PLACES else self._vocabulary.pieces(part))
        ]

    def _named(self, prefix: str, body: str) -> str:
        name = self._names.setdefault(body, f"{prefix}{len(self._names)}")
        self._bodies[name] = body
        return name


def quoted(text: str) -> str:
    """A text that is said as it stands."""
    return json.dumps(text, ensure_ascii=False)


def none_of(names: Iterable[str]) -> str:
    """The rest of a terminal that is none of the names."""
    choices = " | ".join(map(quoted, names))
    return f" & ~({choices})" if choices else ""


def one_of(choices: Sequence[str]) -> str:
    """What is any of these."""
    return choices[0] if len(choices) == 1 else f"({' | '.join(choices)})"
