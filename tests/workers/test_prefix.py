"""What two sequences of tokens have in common."""

from hypothesis import given
from hypothesis import strategies as st

from car_rpc.workers.prefix import common

tokens = st.lists(st.integers(0, 1), max_size=100)


@given(st.lists(st.just(0), max_size=100), tokens, tokens)
def test_the_common_beginning_ends_at_the_first_difference(
    begun: list[int], first: list[int], second: list[int]
) -> None:
    a, b = begun + first, begun + second
    length = common(a, b)
    assert a[:length] == b[:length]
    assert length == min(len(a), len(b)) or a[length] != b[length]
