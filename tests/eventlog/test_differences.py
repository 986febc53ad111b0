"""What is otherwise is told by its place, and what is never the same is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from car_rpc.eventlog.differences import differences

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(JSON)
def test_nothing_differs_from_itself(value):
    assert [*differences(value, value)] == []


@given(JSON, JSON)
def test_values_that_differ_have_a_difference(one, other):
    assert bool([*differences({"x": one}, {"x": other})]) == (one != other)


@pytest.mark.parametrize(
    ("recorded", "now", "found"),
    [
        ({"a": 1}, {"a": 2}, [("$.a", 1, 2)]),
        ({"a": 1}, {}, [("$.a", 1, UNSET)]),
        ({}, {"a": 1}, [("$.a", UNSET, 1)]),
        ({"a": None}, {}, [("$.a", None, UNSET)]),
        ([1, [2]], [1, [3, 4]], [("$[1][0]", 2, 3), ("$[1][1]", UNSET, 4)]),
        ({"a": [1]}, {"a": {"b": 1}}, [("$.a", [1], {"b": 1})]),
        (
            {"b": 1, "a": 1},
            {"a": 2, "b": 2, "c": 3},
            [("$.b", 1, 2), ("$.a", 1, 2), ("$.c", UNSET, 3)],
        ),
        ("x", None, [("$", "x", None)]),
    ],
)
def test_differences_have_their_place_and_both_values(recorded, now, found):
    assert [(d.path, d.recorded, d.now) for d in differences(recorded, now)] == found


def test_ids_and_times_are_not_compared():
    then = {
        "trace_id": "tr_1",
        "latency_ms": 1.5,
        "time_to_first_token_ms": 1.0,
        "client_ref": "a",
        "attempts": [{"latency_ms": 1.0, "model": "a"}],
        "data": {"trace_id": "tr_1"},
    }
    now = {
        "trace_id": "tr_2",
        "latency_ms": 2.5,
        "time_to_first_token_ms": 2.0,
        "attempts": [{"latency_ms": 2.0, "model": "a"}],
        "data": {"trace_id": "tr_2"},
    }
    assert [*differences(then, now)] == []
    deeper = ({"tool_calls": [{"latency_ms": 1}]}, {"tool_calls": [{"latency_ms": 2}]})
    assert len([*differences(*deeper)]) == 1
