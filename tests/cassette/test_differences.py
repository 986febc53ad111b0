"""What is told of two requests that are not the same."""

import json
from typing import Any

import msgspec
from hypothesis import given

from car_rpc.cassette.differences import MAX_TOLD, MAX_TOLD_CHARS, differences, distance
from car_rpc.eventlog.redact import JsonValue
from tests.cassette.test_requests import json_values


def told(recorded: Any, got: Any) -> Any:
    return msgspec.to_builtins(differences(recorded, got))


@given(json_values, json_values)
def test_there_is_a_difference_exactly_where_the_json_is_not_the_same(one: Any, other: Any) -> None:
    same = msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")
    assert (told(one, other) == []) is same
    assert (distance(one, other) == 0) is same


@given(json_values, json_values)
def test_whatever_differs_the_report_stays_small(one: Any, other: Any) -> None:
    found = told(one, other)
    assert len(found) <= MAX_TOLD
    for each in found:
        for side in ("recorded", "got"):
            assert len(json.dumps(each.get(side), ensure_ascii=False)) < 8 * MAX_TOLD_CHARS


def test_the_place_is_named_as_in_an_error_of_parameters() -> None:
    recorded = {"messages": [{"role": "user", "content": "a"}], "model": "x", "stream": True}
    got = {"messages": [{"role": "user", "content": "b"}, {"role": "user"}], "stream": 1, "n": None}
    assert told(recorded, got) == [
        {"path": "$.messages[0].content", "recorded": "a", "got": "b"},
        {"path": "$.messages[1]", "got": {"role": "user"}},
        {"path": "$.model", "recorded": "x"},
        {"path": "$.stream", "recorded": True, "got": 1},
        {"path": "$.n", "got": None},
    ]


def test_of_long_texts_the_part_that_differs_is_told() -> None:
    (found,) = told({"prompt": "x" * 5000 + "yes"}, {"prompt": "x" * 5000 + "no"})
    assert found["recorded"] == "…" + "x" * 40 + "yes"
    assert found["got"] == "…" + "x" * 40 + "no"


def test_texts_that_share_more_are_nearer() -> None:
    asked: JsonValue = {"prompt": "What is the capital of France?"}
    near: JsonValue = {"prompt": "What is the capital of Spain?"}
    far: JsonValue = {"prompt": "Tell me a story."}
    assert 0 < distance(near, asked) < distance(far, asked) <= 1
    assert distance({}, asked) == 1
