import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.backends.openai_compat.chunks import ChunkReader
from car_rpc.engine.stream import Accumulator
from car_rpc.engine.tool_calls import MAX_CALLS
from car_rpc.errors import CarError
from car_rpc.wire.content import ToolCall
from car_rpc.wire.events import (
    ReasoningDelta,
    Stop,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    UsageEvent,
)
from tests.servers.scripted import delta


def read(*chunks: Any, context_window: int = 0) -> list[Any]:
    reader = ChunkReader(context_window)
    events = [event for chunk in chunks for event in reader.read(json.dumps(chunk).encode())]
    return events + reader.finish()


def fragment(index: int | None = None, call_id: str | None = None, **function: Any) -> Any:
    members = {"index": index, "id": call_id, "function": function}
    return delta(tool_calls=[{name: value for name, value in members.items() if value is not None}])


def calls_of(*chunks: Any) -> list[ToolCall]:
    accumulator = Accumulator()
    for event in read(*chunks, delta("tool_calls")):
        accumulator.push(event)
    accumulator.close()
    return accumulator.tool_calls()


def stop_of(*chunks: Any) -> str:
    return read(*chunks)[-1].reason


def test_words_become_deltas_and_the_end_a_reason() -> None:
    chunks = [delta(role="assistant", content=""), delta(content="a"), delta(content="é")]
    assert read(*chunks, delta("stop")) == [
        TextDelta(text="a"),
        TextDelta(text="é"),
        Stop(reason="end_turn"),
    ]


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("function_call", "tool_use"),
        ("content_filter", "refusal"),
        ("stop_sequence", "stop_sequence"),
        ("eos", "end_turn"),
    ],
)
def test_each_reason_has_its_stop(reason: str, stop: str) -> None:
    assert stop_of(delta(content="a"), delta(reason)) == stop


def test_the_last_reason_counts() -> None:
    assert stop_of(delta("stop", content="a"), delta("length")) == "max_tokens"


def test_a_stop_string_that_the_server_names_is_a_stop_sequence() -> None:
    chunk = delta("stop", content="a")
    chunk["choices"][0]["stop_reason"] = "###"
    assert stop_of(chunk) == "stop_sequence"
    chunk["choices"][0]["stop_reason"] = 151645
    assert stop_of(chunk) == "end_turn"


def test_a_call_is_a_call_whatever_the_server_says_of_the_end() -> None:
    assert stop_of(fragment(0, "c", name="f", arguments="{}"), delta("stop")) == "tool_use"


def test_reasoning_that_took_all_the_room_is_told() -> None:
    thought = delta(reasoning_content="hm")
    assert stop_of(thought, delta("length")) == "thinking_truncated"
    assert stop_of(thought, delta("length", content="a")) == "max_tokens"
    assert stop_of(delta("length")) == "max_tokens"


def test_what_the_model_refuses_with_is_its_text() -> None:
    assert read(delta(refusal="no"), delta("stop")) == [
        TextDelta(text="no"),
        Stop(reason="refusal"),
    ]


def test_without_a_reason_the_stop_is_left_open() -> None:
    assert read(delta(content="a")) == [TextDelta(text="a")]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_found_under_each_of_its_names(name: str) -> None:
    assert read(delta(**{name: "hm"})) == [ReasoningDelta(text="hm")]


def test_reasoning_under_two_names_is_told_once() -> None:
    assert read(delta(reasoning="hm", reasoning_content="hm")) == [ReasoningDelta(text="hm")]


def test_content_in_parts_is_text_and_reasoning() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = [thinking, {"type": "text", "text": "a"}, "b", None]
    assert read(delta(content=parts)) == [ReasoningDelta(text="hm"), TextDelta(text="a")]


def test_a_call_begins_once_its_name_is_whole() -> None:
    assert read(
        fragment(0, "c1", name="get_"),
        fragment(0, name="weather"),
        fragment(0, arguments='{"a"'),
        fragment(0, arguments=":1}"),
        delta("tool_calls"),
    ) == [
        ToolCallStart(index=0, id="c1", name="get_weather"),
        ToolCallDelta(index=0, id="c1", arguments_delta='{"a"'),
        ToolCallDelta(index=0, id="c1", arguments_delta=":1}"),
        Stop(reason="tool_use"),
    ]


F1 = ToolCall(id="c1", name="f", arguments={"a": 1})
F2 = ToolCall(id="c2", name="g", arguments={})


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param(
            [fragment(0, "c1", name="f", arguments='{"a":1}'), fragment(1, "c2", name="g")],
            id="whole",
        ),
        pytest.param(
            [fragment(0, "c1", name="f"), fragment(1, "c2", name="g"),
             fragment(0, arguments='{"a":'), fragment(1, arguments="{}"),
             fragment(0, arguments="1}")],
            id="interleaved",
        ),
        pytest.param(
            [fragment(0, "c1", name="f", arguments='{"a"'),
             fragment(0, "c1", name="f", arguments=":1}"), fragment(1, "c2", name="g")],
            id="id-and-name-in-every-fragment",
        ),
        pytest.param(
            [fragment(None, "c1", name="f", arguments='{"a":'), fragment(arguments="1}"),
             fragment(None, "c2", name="g")],
            id="no-index",
        ),
        pytest.param(
            [fragment(0, "c1", name="f", arguments='{"a":1}'), fragment(0, "c2", name="g")],
            id="one-index-for-all",
        ),
        pytest.param(
            [fragment(2_000_000_000, "c1", name="f", arguments='{"a":1}'),
             fragment(-1, "c2", name="g")],
            id="wild-indexes",
        ),
        pytest.param(
            [fragment(0, "c1", name="f", arguments={"a": 1}), fragment(1, "c2", name="g",
             arguments={})],
            id="arguments-as-objects",
        ),
        pytest.param(
            [fragment(0, "c1"), fragment(1, "c2"), fragment(0, name="f"),
             fragment(1, name="g"), fragment(0, arguments='{"a":1}')],
            id="late-names",
        ),
        pytest.param(
            [fragment(0, name="f"), fragment(0, "c1"), fragment(0, arguments='{"a":1}'),
             fragment(1, name="g"), fragment(1, "c2")],
            id="late-ids",
        ),
        pytest.param(
            [{"choices": [{"index": 0, "message": {"content": None, "tool_calls": [
                {"id": "c1", "function": {"name": "f", "arguments": '{"a":1}'}},
                {"id": "c2", "function": {"name": "g", "arguments": "{}"}}]}}]}],
            id="not-streamed",
        ),
    ],
)  # fmt: skip
def test_the_calls_of_every_kind_of_server_are_the_same(chunks: list[Any]) -> None:
    assert calls_of(*chunks) == [F1, F2]


def test_calls_without_an_id_are_given_one() -> None:
    chunks = [fragment(0, name="f", arguments="{}"), fragment(1, name="g", arguments="{}")]
    assert [call.id for call in calls_of(*chunks)] == ["call_0", "call_1"]


def test_the_older_form_of_a_call_is_read() -> None:
    chunks = [delta(function_call={"name": "f", "arguments": '{"a"'}),
              delta(function_call={"arguments": ":1}"})]  # fmt: skip
    assert calls_of(*chunks) == [ToolCall(id="call_0", name="f", arguments={"a": 1})]


def test_a_name_that_comes_after_arguments_is_whole() -> None:
    early = [fragment(0, arguments='{"a"'), fragment(0, arguments=":")]
    events = read(*early, fragment(0, "c", name="f"), fragment(0, arguments="1}"))
    assert events[2] == ToolCallStart(index=0, id="c", name="f")
    assert calls_of(*early, fragment(0, "c1", name="f"), fragment(0, arguments="1}")) == [F1]


def test_more_calls_than_any_answer_has_are_refused() -> None:
    with pytest.raises(CarError, match="tool calls"):
        read(*(fragment(number, f"c{number}", name="f") for number in range(MAX_CALLS + 1)))


def test_usage_is_told_as_far_as_it_is_known() -> None:
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    assert read({"choices": [], "usage": usage}, context_window=1024) == [
        UsageEvent(
            prompt_tokens=7,
            completion_tokens=3,
            total_tokens=10,
            cache_read_tokens=2,
            thinking_tokens=1,
            context_window=1024,
        )
    ]
    strange = {"prompt_tokens": -1, "completion_tokens": "3", "prompt_tokens_details": []}
    assert read({"choices": [], "usage": strange}, context_window=1024) == []


@pytest.mark.parametrize(
    "chunk",
    [
        {},
        {"choices": None, "usage": None, "error": None},
        {"choices": [None, 1, {"index": 0, "delta": None}]},
        {"choices": [{"index": 1, "delta": {"content": "another answer"}}]},
        delta(content=None, tool_calls=None, reasoning=None, function_call=None),
        delta(content=5, tool_calls={"index": 0}, reasoning=[1]),
        delta(tool_calls=[None, 1, [], {"index": "x", "function": 3}]),
    ],
)
def test_what_says_nothing_is_no_event(chunk: Any) -> None:
    assert read(chunk) == []


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b'{"choices": 7}', b"\xff"])
def test_what_is_no_chunk_is_told_apart(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        ChunkReader().read(data)


@pytest.mark.parametrize(
    "chunk", [{"error": {"code": 403}}, {"error": "gone"}, {"object": "error", "message": "x"}]
)
def test_an_error_is_no_chunk(chunk: Any) -> None:
    assert ChunkReader().read(json.dumps(chunk).encode()) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["", "c1", "f", "stop", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "index", "content", "tool_calls", "function", "name",
                 "arguments", "id", "finish_reason", "usage", "prompt_tokens", "reasoning"]
            ),
            inner,
        )
    ),
    max_leaves=30,
)  # fmt: skip
FRAGMENT = st.builds(
    fragment,
    st.sampled_from([None, 0, 1, 7]),
    st.sampled_from([None, "c1", "c2"]),
    name=st.sampled_from([None, "f", "g"]),
    arguments=st.sampled_from([None, "", "{}", '{"a":', "1}"]),
)
DELTA = st.fixed_dictionaries(
    {}, optional={"content": JSON, "tool_calls": st.lists(JSON, max_size=3), "reasoning": JSON}
)


@given(st.lists(st.builds(lambda value: delta(**value), DELTA) | FRAGMENT | JSON, max_size=8))
def test_whatever_a_server_sends_the_accumulator_can_take(chunks: list[Any]) -> None:
    reader, accumulator = ChunkReader(), Accumulator()
    events: list[Any] = []
    for chunk in chunks:
        try:
            events += reader.read(json.dumps(chunk).encode()) or []
        except msgspec.DecodeError:
            continue
    for event in [*events, *reader.finish()]:
        accumulator.push(event)
    accumulator.close()
