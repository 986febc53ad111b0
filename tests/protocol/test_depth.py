from itertools import accumulate

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.protocol.depth import deeper_than

json_values = st.recursive(
    st.none() | st.integers() | st.text(alphabet='[]{}"\\a'),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('[{"\\'), inner, max_size=3)
    ),
    max_leaves=20,
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@given(json_values, st.integers(0, 6))
def test_it_agrees_with_the_parsed_value(value: object, limit: int) -> None:
    assert deeper_than(msgspec.json.encode(value), limit) is (depth(value) > limit)


@given(st.text("[]{}", max_size=60), st.integers(0, 12))
def test_it_counts_what_is_open_although_nothing_fits(brackets: str, limit: int) -> None:
    levels = accumulate(1 if bracket in "[{" else -1 for bracket in brackets)
    assert deeper_than(brackets.encode(), limit) is (max(0, *levels, 0) > limit)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_the_limit_itself_is_allowed(opening: bytes, closing: bytes) -> None:
    assert not deeper_than(opening * 128 + b"1" + closing * 128, 128)
    assert deeper_than(opening * 129 + b"1" + closing * 129, 128)


def test_brackets_in_strings_do_not_count() -> None:
    assert not deeper_than(rb'["' + b"[" * 999 + rb'\"[[\\"]', 1)


@pytest.mark.parametrize("text", [b"[" * 200_000, b'{"a":' * 200_000, b"[" * 500 + b"]" * 100])
def test_what_is_never_closed_is_deep_too(text: bytes) -> None:
    assert deeper_than(text, 128)


def test_what_is_wide_is_not_deep() -> None:
    assert not deeper_than(b"[" + b"[],{}," * 50_000 + b"0]", 2)
