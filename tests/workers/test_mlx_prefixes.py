"""What is kept of earlier prompts, with layers that only count."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from car_rpc.workers.mlx.prefixes import MAX_PREFIXES, Prefix, Prefixes

BYTES_PER_TOKEN = 10

sequences = st.lists(st.integers(0, 2), max_size=8)


@dataclass
class Layer:
    """Remembers so many tokens."""

    tokens: int

    @property
    def nbytes(self) -> int:
        return self.tokens * BYTES_PER_TOKEN

    def trim(self, count: int) -> None:
        self.tokens -= count


def read(*tokens: int) -> Prefix:
    return Prefix(list(tokens), [Layer(len(tokens))])


def kept(*prefixes: Prefix, tokens: int = 1000, can_be_cut: bool = True) -> Prefixes:
    known = Prefixes(tokens * BYTES_PER_TOKEN, can_be_cut=can_be_cut)
    for prefix in prefixes:
        known.put(prefix)
    return known


@given(st.lists(sequences, max_size=6), sequences.filter(bool))
def test_the_longest_shared_beginning_is_found_and_leaves_a_token_to_read(
    known: list[list[int]], wanted: list[int]
) -> None:
    found = kept(*(read(*tokens) for tokens in known)).find(wanted)
    shared = [
        next((i for i, (a, b) in enumerate(zip(t, wanted, strict=False)) if a != b), None)
        for t in known
    ]
    ends = (
        min(len(t), len(wanted)) if i is None else i for t, i in zip(known, shared, strict=True)
    )
    length = min(max(ends, default=0), len(wanted) - 1)
    assert found.tokens == wanted[:length]
    assert [layer.tokens for layer in found.cache] == ([length] if length else [])


@given(st.lists(sequences, max_size=6), sequences.filter(bool))
def test_what_cannot_be_cut_serves_only_as_a_whole(
    known: list[list[int]], wanted: list[int]
) -> None:
    found = kept(*(read(*tokens) for tokens in known), can_be_cut=False).find(wanted)
    whole = [t for t in known if t == wanted[: len(t)] and len(t) < len(wanted)]
    assert found.tokens == max(whole, key=len, default=[])


def test_a_find_changes_nothing_that_is_kept() -> None:
    known = kept(read(1, 2, 3, 4))
    assert known.find([1, 2, 9]).tokens == [1, 2]
    assert known.find([1, 2, 3, 4, 5]).tokens == [1, 2, 3, 4]


@given(st.lists(sequences, max_size=20))
def test_the_bound_holds_always(known: list[list[int]]) -> None:
    prefixes = kept(tokens=10)
    for tokens in known:
        prefixes.put(read(*tokens))
        assert prefixes.nbytes <= 10 * BYTES_PER_TOKEN


def test_what_was_used_last_stays_longest() -> None:
    known = kept(read(1, 1, 1, 1), read(2, 2, 2, 2), tokens=10)
    assert known.find([1, 1, 7]).tokens == [1, 1]
    known.put(read(3, 3, 3, 3))
    assert known.find([1, 1, 1, 1, 7]).tokens == [1, 1, 1, 1]
    assert known.find([2, 2, 7]).tokens == []


def test_a_longer_beginning_replaces_those_that_it_holds() -> None:
    known = kept(read(1, 2), read(1, 2, 3), read(1, 5))
    assert known.nbytes == 5 * BYTES_PER_TOKEN


def test_one_that_is_larger_than_the_bound_is_not_kept() -> None:
    known = kept(read(*range(20)), tokens=10)
    assert known.nbytes == 0
    assert known.find([0, 1, 2]).tokens == []


def test_their_number_is_bounded_too() -> None:
    known = kept(*(read(index, index) for index in range(MAX_PREFIXES + 5)))
    assert known.nbytes == MAX_PREFIXES * 2 * BYTES_PER_TOKEN


def test_all_can_be_forgotten() -> None:
    known = kept(read(1, 2))
    known.clear()
    assert known.find([1, 2, 3]).tokens == []
