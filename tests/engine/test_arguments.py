"""However a sender tells a call's arguments, in pieces or all so far, they are the same."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.engine.arguments import MAX_ARGUMENTS_DEPTH, Arguments


def told(*pieces: str) -> list[str]:
    arguments = Arguments()
    passed_on = [arguments.push(piece) for piece in pieces]
    return [piece for piece in [*passed_on, arguments.settle()] if piece]


@pytest.mark.parametrize(
    ("pieces", "passed_on"),
    [
        (['{"a"', ":1}"], ['{"a"', ":1}"]),
        (["{", '{"a"', '{"a":1}'], ["{", '"a":1}']),
        (["{", '{"a"', '{"a":1', '{"a":1}', '{"a":1}'], ["{", '"a":1', "}"]),
        (['{"a":', "1}", '{"a":1}'], ['{"a":', "1}"]),
        (['{"a":1}', '{"a":1}'], ['{"a":1}']),
        (['{"a":1}', '{"a":1}', '{"a":1}'], ['{"a":1}']),
        (["{}", "{}"], ["{}"]),
        (['{"a":', '{"a":1}', "}"], ['{"a":', '{"a":1}}']),
        (['{"a":', '{"a":1}}'], ['{"a":', '{"a":1}}']),
        (['{"a":', '{"a":', "1}", "}"], ['{"a":', '{"a":1}', "}"]),
        (["[", "[1", "]]"], ["[", "[1", "]]"]),
        (["oops", "oops again"], ["oops", "oops again"]),
        (["", "{", "", "}"], ["{", "}"]),
    ],
)
def test_pieces_and_repeated_wholes_become_pieces(pieces: list[str], passed_on: list[str]) -> None:
    assert told(*pieces) == passed_on


JSON = st.recursive(
    st.integers(0, 1) | st.sampled_from(["", "a", '{"', "{", '":']),
    lambda inner: (
        st.dictionaries(st.sampled_from(["a", "b", "", "{", ","]), inner, max_size=2)
        | st.lists(inner, max_size=2)
    ),
    max_leaves=6,
)
OBJECT = st.dictionaries(st.sampled_from(["a", "b", "", "{", ","]), JSON, max_size=2)


@given(OBJECT, st.lists(st.integers(0, 60), max_size=6), st.integers(0, 2))
def test_however_they_are_cut_the_pieces_add_up(
    value: dict[str, object], cuts: list[int], repeats: int
) -> None:
    text = json.dumps(value)
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    assert "".join(told(*pieces, *[text] * repeats)) == text
    assert "".join(told(*(text[:end] for end in places[1:]), *[text] * repeats)) == text


@given(st.lists(st.sampled_from(["{", '{"a":', "1", "}", '{"a":1}', "", "x"]), max_size=8))
def test_what_is_held_back_is_in_the_text_at_any_time(pieces: list[str]) -> None:
    arguments, passed_on = Arguments(), ""
    for piece in pieces:
        passed_on += arguments.push(piece)
        assert arguments.text.startswith(passed_on)
    text = arguments.text
    assert passed_on + arguments.settle() == text == arguments.text
    assert arguments.settle() == ""


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("", {}),
        (" \n", {}),
        (' {"a": 1} ', {"a": 1}),
        ("null", None),
        ("12", None),
        ("[]", None),
        ('{"a"', None),
        ("{}{}", None),
        ('{"a":' * 5000, None),
    ],
)
def test_they_are_an_object_or_none(text: str, parsed: object) -> None:
    arguments = Arguments()
    arguments.push(text)
    assert arguments.parsed() == parsed


def test_what_nests_too_deep_for_those_who_read_it_is_none() -> None:
    for levels, is_object in [(MAX_ARGUMENTS_DEPTH, True), (MAX_ARGUMENTS_DEPTH + 1, False)]:
        arguments = Arguments()
        arguments.push('{"a":' * levels + "1" + "}" * levels)
        assert (arguments.parsed() is not None) is is_object
