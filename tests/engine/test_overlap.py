"""A continuation that says the end of the text again is passed on without it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.engine.overlap import MIN_OVERLAP_CHARS, OverlapRemover

TEXT = "The quick brown fox jumps over the lazy dog, and then sleeps under the old oak tree."


def passed_on(prefix: str, pieces: list[str]) -> tuple[str, int]:
    remover = OverlapRemover(prefix)
    text = "".join(remover.push(piece) for piece in pieces) + remover.close()
    return text, remover.removed


def test_a_continuation_that_repeats_nothing_is_passed_on_at_once() -> None:
    remover = OverlapRemover("Hello ")

    assert remover.push("world") == "world"
    assert remover.removed == 0


def test_a_long_repetition_is_removed_and_counted() -> None:
    assert passed_on(TEXT, [TEXT[-40:] + " The end."]) == (" The end.", 40)


def test_all_of_a_short_text_is_removed_when_it_is_said_again() -> None:
    assert passed_on("Hello", ["Hello", " world"]) == (" world", 5)


def test_a_short_repetition_is_an_accident_and_stays() -> None:
    repeated = TEXT[-(MIN_OVERLAP_CHARS - 1) :]

    assert passed_on(TEXT, [repeated, "!"]) == (f"{repeated}!", 0)


def test_the_shortest_repetition_that_counts_is_removed() -> None:
    assert passed_on(TEXT, [TEXT[-MIN_OVERLAP_CHARS:], "!"]) == ("!", MIN_OVERLAP_CHARS)


def test_what_only_began_like_a_repetition_is_released_whole() -> None:
    assert passed_on(TEXT, [TEXT[-40:-10], "but no"]) == (f"{TEXT[-40:-10]}but no", 0)


def test_a_continuation_that_ends_inside_a_repetition_is_released() -> None:
    assert passed_on(TEXT, [TEXT[-40:-5]]) == (TEXT[-40:-5], 0)


def test_of_two_repetitions_the_longer_is_removed() -> None:
    prefix = "ab" * 30

    assert passed_on(prefix, [prefix, "c"]) == ("c", len(prefix))


def test_a_shorter_repetition_counts_when_the_longer_one_turns_out_to_be_none() -> None:
    end = "x" * 30
    prefix = f"{end}y{end}"

    assert passed_on(prefix, [end, "z"]) == ("z", 30)


def test_no_prefix_means_no_repetition() -> None:
    assert passed_on("", ["text"]) == ("text", 0)


@pytest.mark.parametrize("cut", range(MIN_OVERLAP_CHARS, len(TEXT)))
@pytest.mark.parametrize("repeats", [0, 24, 40])
def test_wherever_a_text_is_cut_it_is_whole_again(cut: int, repeats: int) -> None:
    continuation = TEXT[max(0, cut - repeats) :]

    assert TEXT[:cut] + passed_on(TEXT[:cut], list(continuation))[0] == TEXT


@given(st.text(), st.lists(st.text(max_size=9)))
def test_only_what_was_said_before_is_ever_removed(prefix: str, pieces: list[str]) -> None:
    said = "".join(pieces)
    text, removed = passed_on(prefix, pieces)

    assert said[removed:] == text
    assert prefix.endswith(said[:removed])


@given(st.text(), st.text(), st.data())
def test_how_it_is_cut_into_pieces_does_not_matter(
    prefix: str, said: str, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(said)))))
    edges = [0, *cuts, len(said)]
    pieces = [said[a:b] for a, b in itertools.pairwise(edges)]

    assert passed_on(prefix, pieces) == passed_on(prefix, [said])
