"""Patterns against Python's own regular expressions, which agree on what a match is."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.policy import automaton as automaton_module
from car_rpc.policy.automaton import Automaton, found
from car_rpc.policy.scanner import Scanner, Span
from car_rpc.policy.syntax import UNBOUNDED, compiled

atoms = st.sampled_from(
    ["a", "b", "1", ".", r"\d", r"\w", r"\W", r"\s", "[ab]", "[^a]", "[]a]", r"\.", r"\x61", "_"]
)
places = st.sampled_from([r"\b", r"\B", r"\A", r"\Z", "^"])
quantifiers = st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,3}", "{,2}", "{1,}", "+?"])


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(inner, inner)
    consuming = st.tuples(atoms, inner).map("".join)
    return (
        pairs.map("".join)
        | pairs.map(lambda pair: f"(?:{pair[0]}|{pair[1]})")
        | st.tuples(consuming, quantifiers).map(lambda pair: f"({pair[0]}){pair[1]}")
    )


flags = st.sampled_from(["", "(?i)", "(?s)"])
bodies = st.recursive(atoms | places, grown, max_leaves=8)
texts = st.text(alphabet="ab1_ .\nAB", max_size=8)


def spans_by_definition(flag: str, body: str, text: str) -> list[Span]:
    """The leftmost match, of those the longest, and the next one behind it."""
    endings = [re.compile(rf"{flag}(?:{body})(?=[\s\S]{{{n}}}\Z)") for n in range(len(text))]
    spans, start = [], 0
    while start < len(text):
        rest = next((n for n in range(len(text) - start) if endings[n].match(text, start)), None)
        if rest is None:
            start += 1
        else:
            spans.append(Span(start, len(text) - rest))
            start = len(text) - rest
    return spans


def scanned(pattern: str, pieces: list[str]) -> list[Span]:
    program = compiled(pattern)
    scanner = Scanner(program, Automaton(program))
    spans: list[Span] = []
    for piece in pieces:
        spans += scanner.push(piece)
        assert all(span.end <= scanner.decided for span in spans)
    return spans + scanner.end()


@given(flags, bodies, texts, st.lists(st.integers(0, 10)))
def test_matches_are_those_of_python_however_the_text_is_cut(
    flag: str, body: str, text: str, cuts: list[int]
) -> None:
    pieces = [text[a:b] for a, b in pairwise([0, *sorted(cuts), len(text)]) if a <= b]
    pieces = pieces if "".join(pieces) == text else [text]
    assert scanned(flag + body, pieces) == spans_by_definition(flag, body, text)


@given(flags, bodies, texts.filter(bool))  # Python's own `\B` is not found in an empty text
def test_whether_there_is_a_match_is_what_python_says(flag: str, body: str, text: str) -> None:
    automaton = Automaton(compiled(flag + body), anywhere=True)
    assert found(automaton, text) == (re.search(flag + body, text) is not None)


@given(flags, bodies, texts)
def test_no_match_is_shorter_or_longer_than_its_pattern_says(
    flag: str, body: str, text: str
) -> None:
    program = compiled(flag + body)
    for start, end in scanned(flag + body, [text]):
        assert program.shortest <= end - start <= program.longest


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        # Each takes exponential or high polynomial time where matches are searched by backtracking.
        ("(a+)+$", "a" * 5000 + "!"),
        ("(a|aa)+$", "a" * 5000 + "!"),
        ("(?:a?){60}a{60}", "a" * 59 + "b" * 5000),
        (r"(\w+\s?)+$", "word " * 1000 + "!"),
        (".*.*.*.*=", "x" * 5000),
    ],
)
def test_no_pattern_takes_more_than_linear_time(pattern: str, text: str) -> None:
    looked_at = 0

    class Counted(Automaton):
        def step(self, state, char):  # type: ignore[no-untyped-def]
            nonlocal looked_at
            looked_at += 1
            return super().step(state, char)

    assert not found(Counted(compiled(pattern), anywhere=True), text)
    assert looked_at <= len(text) + 1


@given(st.text(alphabet=r"ab1()[]{}|*+?.^$\,:<=!-idwx", max_size=24) | st.text(max_size=12))
def test_what_is_accepted_python_accepts_too(pattern: str) -> None:
    try:
        compiled(pattern)
    except ValueError:
        pass
    else:
        re.compile(pattern)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", "a `(` without its `)`"),
        ("a)", "a `)` without its `(` (at character 2)"),
        ("[a", "a class without its `]`"),
        ("[b-a]", "bad character range b-a"),
        ("*", "`*` has nothing to repeat"),
        ("a**", "two quantifiers follow each other"),
        ("a++", "two quantifiers follow each other"),
        ("(?=a)", "of groups with `(?` there is only `(?:`"),
        (r"(a)\1", "an escape that is not known here"),
        ("a{3,2}", "counts go up"),
        ("a{1001}", "counts go up, to 1000 at most"),
        ("(?:a{1000}){1000}", "too large"),
        ("(?:(?:(?:){1000}){1000}){1000}", "nothing but the empty text"),
        (r"\b+", "nothing but the empty text"),
        ("(" * 25 + ")" * 25, "groups nest deeper than 24"),
        ("[+--]", r"write \- for a hyphen in a class"),
    ],
)
def test_what_is_refused_is_said(pattern: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        compiled(pattern)


@pytest.mark.parametrize(
    ("pattern", "shortest", "longest"),
    [("abc", 3, 3), ("a{2,5}|b", 1, 5), ("(?:ab)?c*", 0, UNBOUNDED), (r"\bx\b", 1, 1)],
)
def test_lengths_are_those_of_the_shortest_and_the_longest_match(
    pattern: str, shortest: int, longest: int
) -> None:
    program = compiled(pattern)
    assert (program.shortest, program.longest) == (shortest, longest)


def test_a_class_may_hold_what_python_would_warn_of() -> None:
    assert scanned("[[&&|]", ["x[&|"]) == [(1, 2), (2, 3), (3, 4)]


def test_what_is_kept_of_a_pattern_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automaton_module, "MAX_KEPT", 500)
    automaton = Automaton(compiled("(?:.{0,20}x){2}"), anywhere=True)
    assert found(automaton, "".join(map(chr, range(200, 600))) + "xx")
    assert automaton.kept <= 500 + 50
