import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.engine.verdicts import label_scores, likelihood_scores, ranked, undecided, verdict


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (" Yes", 1.0),
        ("\nno.", 0.0),
        ("<|im_end|>yes", 1.0),
        ("_bos_ yes", 1.0),
        ("maybe", None),
        ("", None),
        ("one two three four yes", 1.0),
        ("one two three four five yes", None),
        ("no, yes", 0.0),
        ("yesterday", None),
    ],
)
def test_the_first_yes_or_no_among_the_first_words_counts(answer: str, score: float | None) -> None:
    assert verdict(answer) == score


def test_an_answer_without_a_verdict_is_in_the_middle() -> None:
    assert undecided(None) == 0.5
    assert undecided(0.0) == 0.0


def scores(answer: str, *labels: str) -> list[tuple[str, float]]:
    return [(each.label, each.score) for each in label_scores(answer, labels)]


def test_the_three_rules_of_an_answer_in_words() -> None:
    # 1.0 for the same, 0.8 for an answer that holds it, half the share of its words else; the
    # sum is 1.
    assert scores(" Sports\n", "sports", "Arts") == [("sports", 1.0), ("Arts", 0.0)]
    assert scores("It is sports.", "sports", "fine arts") == [("sports", 1.0), ("fine arts", 0.0)]
    assert scores("fine sports", "sports", "fine arts") == [
        ("sports", pytest.approx(0.8 / 1.05)),
        ("fine arts", pytest.approx(0.25 / 1.05)),
    ]


def test_labels_keep_their_spelling_and_equal_ones_their_order() -> None:
    assert scores("none of these", "B", "a b c d", "X") == [
        ("B", 0.0),
        ("a b c d", 0.0),
        ("X", 0.0),
    ]


def test_what_a_model_says_anyway_is_divided_out() -> None:
    # Both labels gain from the text, but "rare" gains a thousand times and "common" ten times.
    common, rare = math.log(0.5), math.log(0.2)
    given_nothing = [math.log(0.05), math.log(0.0002)]
    best, other = likelihood_scores(["common", "rare"], [common, rare], given_nothing)
    assert best.label == "rare"
    assert best.score == pytest.approx(1000 / 1010)
    assert other.score == pytest.approx(10 / 1010)


LOG_PROBABILITIES = st.floats(-1e6, 0)


@given(st.lists(st.tuples(LOG_PROBABILITIES, LOG_PROBABILITIES), min_size=1, max_size=9))
def test_likelihoods_become_scores_that_add_up_to_1(pairs: list[tuple[float, float]]) -> None:
    labels = [str(index) for index in range(len(pairs))]
    given_text, given_nothing = zip(*pairs, strict=True)
    found = likelihood_scores(labels, given_text, given_nothing)
    assert sum(each.score for each in found) == pytest.approx(1.0)
    assert sorted(each.label for each in found) == sorted(labels)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


def test_documents_are_ordered_by_score_then_by_their_place() -> None:
    documents = ["a", "b", "c", "d"]
    order = [each.index for each in ranked(documents, [0.5, 1.0, 0.5, 0.0], None)]
    assert order == [1, 0, 2, 3]
    assert [each.document for each in ranked(documents, [0.5, 1.0, 0.5, 0.0], 2)] == ["b", "a"]
    assert ranked(documents, [0.5, 1.0, 0.5, 0.0], 0) == []
