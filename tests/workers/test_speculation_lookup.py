"""What followed the last tokens where they stood before."""

from hypothesis import given
from hypothesis import strategies as st

from car_rpc.workers.speculation.lookup import MAX_MATCH, MIN_MATCH, Lookup

ROOM = 400


def followed(text: list[int], pending: int = 1) -> tuple[Lookup, int | None]:
    lookup = Lookup(ROOM)
    lookup.begin()
    kind = lookup.follow(text[:-pending], text[-pending:])
    return lookup, kind


def expected(text: list[int]) -> tuple[int, int]:
    """The longest match of the end of a text, and where the last such one goes on: the slow way."""
    best = (0, 0)
    for place in range(1, len(text)):
        length = 0
        while length < min(place, MAX_MATCH) and text[place - 1 - length] == text[-1 - length]:
            length += 1
        best = max(best, (length, place))
    return best


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 40))
def test_the_longest_match_is_found_and_of_several_the_last(text: list[int], count: int) -> None:
    lookup, kind = followed(text)
    length, place = expected(text)
    assert (kind is None) == (length < MIN_MATCH)
    if kind is not None:
        going_on = list(text)
        for index in range(count):  # a copy that may run into itself
            going_on.append(going_on[place + index])
        assert lookup.draft(count) == going_on[len(text) :]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=12))
def test_a_text_may_come_in_pieces(pieces: list[list[int]]) -> None:
    lookup = Lookup(ROOM)
    lookup.begin()
    read: list[int] = []
    for piece in pieces:
        kind = lookup.follow(read, piece)
        read = read + piece
    whole, of_whole = followed(read, len(pieces[-1]))
    assert kind == of_whole
    if kind is not None:
        assert lookup.draft(9) == whole.draft(9)


def test_a_longer_match_makes_a_better_draft() -> None:
    kinds = [followed([*range(length), 99, *range(length)])[1] for length in (1, 2, 4, 8, 16)]
    assert kinds[0] is None
    better = [kind for kind in kinds if kind is not None]
    assert better == sorted(set(better))
    assert len(better) == len(kinds) - 1


def test_a_text_that_repeats_itself_goes_on_doing_so() -> None:
    lookup, kind = followed([1, 2, 3] * 3)
    assert kind is not None
    assert lookup.draft(7) == [1, 2, 3, 1, 2, 3, 1]


def test_nothing_of_the_text_before_is_left() -> None:
    lookup, _ = followed([1, 2, 3, 1, 2])
    lookup.begin()
    assert lookup.follow([7, 1], [2]) is None


def test_a_first_token_has_nothing_before_it() -> None:
    assert followed([5])[1] is None
