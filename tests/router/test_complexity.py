"""How hard a request looks decides which model it gets and whether it may think for long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.router.complexity import (
    CODE_SIGNALS,
    LONG_CHARS,
    REASONING_MARKERS,
    SHORT_CHARS,
    Signal,
    assess,
)


@pytest.mark.parametrize(
    ("text", "complexity"),
    [
        ("What is the capital of France?", "simple"),
        ("¿Qué hora es?", "simple"),
        ("What? Why?", "medium"),
        ("Say hello", "medium"),
        ("", "medium"),
        ("a" * (SHORT_CHARS - 2) + "?", "simple"),
        ("a" * (SHORT_CHARS - 1) + "?", "medium"),
        ("Write a letter to my landlord about the noise upstairs.", "medium"),
        ("Make a plan for my holidays", "medium"),
        ("a" * LONG_CHARS, "medium"),
        ("a" * (LONG_CHARS + 1), "complex"),
        ("Prove it step by step.", "complex"),
        ("Compare both and name the trade-offs.", "complex"),
        ("COMPARE the two, then PLAN the move", "complex"),
        ("Plan the architecture of a small town", "complex"),
        ("An explanation of planets and of approval", "medium"),
        ("What does this do?\n```\nx\n```", "code"),
        ("~~~\nx\n~~~", "code"),
        ("Fix the bug in main.py", "code"),
        ("Write a Python function that adds numbers", "code"),
        ("const x = f(1);", "code"),
        ("def add(a, b):\n    return a + b", "code"),
        ("SELECT name FROM users WHERE id == 3", "code"),
        ("Prove step by step that sort() in sort.rs is stable", "code"),
        ("Use inline ``` marks", "medium"),
    ],
)
def test_a_request_is_as_hard_as_its_words(text: str, complexity: str) -> None:
    assert assess(text) == complexity


@given(st.text(max_size=200))
def test_any_text_is_of_one_kind_and_always_the_same(text: str) -> None:
    assert assess(text) == assess(text)
    assert assess("```\n" + text) == "code"


@pytest.mark.parametrize("signal", [*CODE_SIGNALS, *REASONING_MARKERS], ids=str)
@given(data=st.data())
def test_the_hints_of_a_signal_leave_out_nothing_that_it_finds(
    signal: Signal, data: st.DataObject
) -> None:
    found = data.draw(st.from_regex(signal.pattern)).lower()
    assert signal.is_in(found) == bool(signal.pattern.search(found))


@pytest.mark.parametrize("piece", ["f(", "\n", " ", "return ", "SELECT ", "a.", "```"])
@pytest.mark.timeout(5)  # a pattern that goes back and forth takes minutes
def test_a_text_without_end_is_judged_in_passing(piece: str) -> None:
    assert assess(piece * 1_000_000) in ("complex", "code")
