"""Content that is replaced or refused, however it comes: nothing of a match, and all else."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.policy.content import ContentFilter, filtered
from car_rpc.policy.rules import MAX_MATCH_CHARS, ContentRule, Rules
from car_rpc.testing import scripted_model
from car_rpc.wire.policy import PolicyRule
from tests.policy.test_patterns import bodies, flags, spans_by_definition

MODEL = scripted_model("test/one:a", [])

#: Stands for a match; no other text holds it.
MARK = "#"


def content(*rules: dict[str, Any]) -> list[ContentRule]:
    named = [
        {"id": f"r{number}", "action": "redact", "replacement": MARK, **rule}
        for number, rule in enumerate(rules)
    ]
    return Rules(msgspec.convert(named, list[PolicyRule])).content("generate", MODEL)


def cut(text: str, cuts: list[int]) -> list[str]:
    places = sorted(min(each, len(text)) for each in cuts)
    return [text[a:b] for a, b in pairwise([0, *places, len(text)])]


def bounded(pattern: str) -> bool:
    try:
        content({"patterns": [pattern]})
    except ValueError:
        return False
    return True


words = st.tuples(flags, bodies).filter(lambda pair: bounded("".join(pair)))
texts = st.text(alphabet="ab1_ .\nAB", max_size=8)


def replaced_by_definition(pairs: list[tuple[str, str]], text: str) -> str:
    """The text where each maximal run of overlapping matches is one mark."""
    spans = sorted(span for flag, body in pairs for span in spans_by_definition(flag, body, text))
    merged: list[list[int]] = []
    for start, end in spans:
        if merged and start < merged[-1][1]:
            merged[-1][1] = max(end, merged[-1][1])
        else:
            merged.append([start, end])
    parts, at = [], 0
    for start, end in merged:
        parts += [text[at:start], MARK]
        at = end
    return "".join([*parts, text[at:]])


@given(st.lists(words, min_size=1, max_size=3), texts, st.lists(st.integers(0, 8)))
def test_every_match_is_replaced_and_nothing_else_however_the_text_is_cut(
    pairs: list[tuple[str, str]], text: str, cuts: list[int]
) -> None:
    rules = content(*({"patterns": ["".join(pair)]} for pair in pairs))
    whole = replaced_by_definition(pairs, text)
    made = ContentFilter(rules)
    told = ""
    for piece in cut(text, cuts):
        told += made.push(piece)
        assert whole.startswith(told), "what was told is told for good"
    assert told + made.end() == whole
    assert made.held == ""
    assert sum(made.replaced.values()) == whole.count(MARK)


@given(words, texts, texts, st.lists(st.integers(0, 16)))
def test_nothing_of_a_match_is_told_before_it_is_known(
    pair: tuple[str, str], before: str, after: str, cuts: list[int]
) -> None:
    """Whatever follows, the text so far is told as it would be with that."""
    rules = content({"patterns": ["".join(pair)]})
    made = ContentFilter(rules)
    told = "".join(made.push(piece) for piece in cut(before, cuts))
    assert replaced_by_definition([pair], before + after).startswith(told)


@given(words, texts, st.lists(st.integers(0, 8)))
def test_what_is_refused_is_told_up_to_the_match_and_no_further(
    pair: tuple[str, str], text: str, cuts: list[int]
) -> None:
    rules = content({"action": "deny", "patterns": ["".join(pair)]})
    made = ContentFilter(rules)
    told = "".join(made.push(piece) for piece in cut(text, cuts)) + made.end()
    spans = spans_by_definition(*pair, text)
    assert (made.refused_by is not None) == bool(spans)
    assert told == (text[: spans[0].start] if spans else text)


@pytest.mark.parametrize("pattern", ["[ab]{1,512}", "a{0,511}b", "(?:ab|ba){1,256}"])
def test_what_is_held_back_is_bounded(pattern: str) -> None:
    made = ContentFilter(content({"patterns": [pattern]}))
    for _ in range(2000):
        made.push("ab")
        assert len(made.held) <= 2 * MAX_MATCH_CHARS


def test_the_first_of_overlapping_rules_says_what_stands_there() -> None:
    rules = content(
        {"patterns": ["bcd"], "replacement": "[2]"}, {"patterns": ["abc"], "replacement": "[1]"}
    )
    told, made = filtered("xabcdx", rules)
    assert told == "x[1]x"
    assert made.replaced == {"r1": 1}


def test_a_refusal_goes_before_a_replacement_that_it_overlaps() -> None:
    rules = content({"patterns": ["abc"]}, {"action": "deny", "patterns": ["cd"]})
    told, made = filtered("xabcdx", rules)
    assert told == "x"
    assert made.refused_by.id == "r1"


def test_a_refusal_tells_nothing_of_what_was_to_be_replaced_before_it() -> None:
    # The second pattern may still begin within the first one's match, so that is not replaced yet.
    rules = content(
        {"patterns": ["abcde"]},
        {"patterns": ["de.{0,50}X"]},
        {"action": "deny", "patterns": ["BAD"]},
    )
    screen = ContentFilter(rules)
    assert screen.push("xxabcde BAD and") == "xx"
    assert screen.refused_by is not None


def test_what_is_plain_passes_at_once() -> None:
    made = ContentFilter(content({"patterns": [r"\bsk-[a-z]{3}"]}))
    assert [made.push(piece) for piece in ("hello ", "a", "s", "k", "-abc", " x")] == [
        "hello ", "a", "s", "k", "-abc", " x",
    ]  # fmt: skip
    assert [made.push(piece) for piece in (" s", "k", "-abc", " x")] == [" ", "", "", "# x"]
