"""One text of an answer, as it comes, with what rules about content say of it. Pure.

What may still become a match of a pattern is held back, with all behind it; so nothing of a match
is ever passed on, wherever the text is cut. Patterns have a longest match, so what is held back is
bounded, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from car_rpc.policy.rules import ContentRule
from car_rpc.policy.scanner import Scanner
from car_rpc.wire.policy import PolicyRule


class _Found(NamedTuple):
    """A place in the text where patterns match, and the rule that decides what stands there."""

    start: int
    end: int
    rule: PolicyRule


class ContentFilter:
    """Filters one text.

    Args:
        rules: The rules, in their order.
        replaced: Counts how often each rule replaced something, by its id.
        begun: The beginning of the text, which nothing was decided about yet.
    """

    def __init__(
        self, rules: Sequence[ContentRule], replaced: Counter[str] | None = None, begun: str = ""
    ) -> None:
        #: The rule that refuses the text, once it does; nothing is passed on from then.
        self.refused_by: PolicyRule | None = None
        self.replaced = Counter[str]() if replaced is None else replaced
        self._scanners = [
            (rule, Scanner(program, automaton))
            for rule, patterns in rules
            for program, automaton in patterns
        ]
        self._found: list[_Found] = []
        self._begun = begun
        self._text = ""  # that is not passed on
        self._offset = 0  # of it in the whole text

    @property
    def held(self) -> str:
        """What is held back."""
        return self._begun + self._text

    def push(self, text: str) -> str:
        """The next piece; returns what may be passed on."""
        text, self._begun = self._begun + text, ""
        self._text += text
        for rule, scanner in self._scanners:
            self._found += [_Found(*span, rule) for span in scanner.push(text)]
        return self._pass()

    def end(self) -> str:
        """Nothing follows; returns the rest."""
        for rule, scanner in self._scanners:
            self._found += [_Found(*span, rule) for span in scanner.end()]
        return self._pass()

    def _pass(self) -> str:
        if self.refused_by is not None:
            return ""
        decided = min(
            (scanner.decided for _, scanner in self._scanners),
            default=self._offset + len(self._text),
        )
        parts: list[str] = []
        left: list[_Found] = []
        for found in _merged(self._found):
            if found.rule.action == "deny":
                # What stands before it may still be part of something that is replaced.
                ends = [decided, found.start, *(each.start for each in left)]
                parts.append(self._take(min(ends)))
                self.refused_by = found.rule
                return "".join(parts)
            if left or found.end > decided:
                left.append(found)  # more may overlap it
                continue
            parts += [self._take(found.start), found.rule.replacement]
            self._take(found.end)
            self.replaced[found.rule.id] += 1
        self._found = left
        parts.append(self._take(min([decided, *(found.start for found in left)])))
        return "".join(parts)

    def _take(self, end: int) -> str:
        """Take the text up to a place."""
        count = max(0, end - self._offset)
        taken, self._text = self._text[:count], self._text[count:]
        self._offset += count
        return taken


def filtered(
    text: str, rules: Sequence[ContentRule], replaced: Counter[str] | None = None
) -> tuple[str, ContentFilter]:
    """A whole text as it may be passed on, and what was found in it."""
    content = ContentFilter(rules, replaced)
    return content.push(text) + content.end(), content


def _merged(found: list[_Found]) -> Iterator[_Found]:
    """The places in order, those that overlap as one: of a refusal, else of the first rule."""
    last: _Found | None = None
    for each in sorted(found, key=lambda each: (each.start, -each.end)):
        if last is None:
            last = each
        elif each.start >= last.end:
            yield last
            last = each
        else:
            rule = each.rule if each.rule.action == "deny" else last.rule
            if last.rule.action == "deny":
                rule = last.rule
            last = _Found(last.start, max(last.end, each.end), rule)
    if last is not None:
        yield last
