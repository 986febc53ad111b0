"""Whatever a backend streams of its tool calls, and in whatever order, is told in one form."""

import pytest

from car_rpc.engine.stream import Accumulator
from car_rpc.engine.tool_calls import MAX_CALLS
from car_rpc.errors import CarError
from car_rpc.wire.content import ToolCall
from car_rpc.wire.events import (
    ContentBlockStop,
    RunnerEvent,
    Stop,
    StreamEvent,
    TextDelta,
    ToolCallCancel,
    ToolCallDelta,
    ToolCallStart,
    ToolParseError,
)


def start(index: int, call_id: str = "", name: str = "") -> ToolCallStart:
    return ToolCallStart(index=index, id=call_id, name=name)


def args(index: int, text: str, call_id: str = "") -> ToolCallDelta:
    return ToolCallDelta(index=index, id=call_id, arguments_delta=text)


def end(index: int) -> ContentBlockStop:
    return ContentBlockStop(index=index)


def told(*events: RunnerEvent) -> list[StreamEvent]:
    accumulator = Accumulator()
    return [out for event in events for out in accumulator.push(event)] + accumulator.close()


def calls(*events: RunnerEvent) -> list[ToolCall]:
    accumulator = Accumulator()
    for event in events:
        accumulator.push(event)
    accumulator.close()
    return accumulator.tool_calls()


F = ToolCall(id="c1", name="f", arguments={"a": 1})
G = ToolCall(id="c2", name="g", arguments={})


def test_arguments_before_the_name_follow_the_start_as_one_delta() -> None:
    assert told(
        start(0, "c1"), args(0, '{"a"'), args(0, ":"), start(0, "c1", "f"), args(0, "1}"), end(0)
    ) == [
        start(0, "c1", "f"),
        args(0, '{"a":', "c1"),
        args(0, "1}", "c1"),
        end(0),
        Stop(reason="tool_use"),
    ]


def test_arguments_may_even_come_before_anything_is_known_of_their_call() -> None:
    assert calls(args(3, '{"a":1}'), end(3), start(3, "c1", "f")) == [F]


@pytest.mark.parametrize(
    "events",
    [
        pytest.param(
            [start(0, "c1", "f"), start(0, "c1", "f"), args(0, '{"a":1}'), start(1, "c2", "g")],
            id="started-twice",
        ),
        pytest.param(
            [start(0, "c1", "f"), args(0, '{"a":1}', "c1"), start(1, "c2", "g"),
             start(5, "c1", "f"), args(5, '{"a":1}', "c1")],
            id="told-again-under-another-number",
        ),
        pytest.param(
            [start(0, "c1", "f"), args(0, '{"a"'), args(0, '{"a":1'), args(0, '{"a":1}'),
             start(1, "c2", "g")],
            id="all-arguments-so-far-each-time",
        ),
        pytest.param(
            [start(0, "c1", "f"), args(0, '{"a":1}', "c1"), start(0, "c2", "g")],
            id="one-number-for-all",
        ),
        pytest.param(
            [start(2_000_000_000, "c1", "f"), args(2_000_000_000, '{"a":1}'), start(9, "c2", "g")],
            id="wild-numbers",
        ),
        pytest.param(
            [start(1, "c1", "f"), start(0, "c2", "g"), args(1, '{"a":'), args(0, "{}"),
             args(1, "1}")],
            id="side-by-side",
        ),
        pytest.param(
            [start(0, "c1", "f"), end(0), args(0, '{"a":1}'), end(0), start(1, "c2", "g")],
            id="ended-too-early",
        ),
    ],
)  # fmt: skip
def test_the_calls_of_every_kind_of_backend_are_the_same(events: list[RunnerEvent]) -> None:
    assert calls(*events) == [F, G]
    numbers = [event.index for event in told(*events) if isinstance(event, ToolCallStart)]
    assert numbers == [0, 1]


def test_every_call_that_is_whole_has_one_end_after_its_arguments() -> None:
    events = told(start(0, "c1", "f"), end(0), args(0, '{"a":1}'), end(0), end(0), end(7))
    assert events == [
        start(0, "c1", "f"),
        args(0, '{"a":1}', "c1"),
        end(0),
        Stop(reason="tool_use"),
    ]


def test_the_end_comes_before_the_stop_even_when_nobody_told_it() -> None:
    assert told(start(0, "c1", "f"), Stop(reason="tool_use")) == [
        start(0, "c1", "f"),
        end(0),
        Stop(reason="tool_use"),
    ]


def test_calls_without_an_id_are_given_one_that_is_not_taken() -> None:
    events = [start(0, "call_1", "f"), start(1, "", "g"), start(2, "", "h")]
    assert [call.id for call in calls(*events)] == ["call_1", "call_1_", "call_2"]


def test_a_call_whose_given_id_was_made_up_for_another_one_is_told_by_one_of_its_own() -> None:
    events = [
        start(0, "", "f"),
        start(0, "", "g"),
        start(2, "call_1", "h"),
        args(2, "{}", "call_1"),
    ]
    assert [call.id for call in calls(*events)] == ["call_0", "call_1", "call_1_"]
    assert [call.name for call in calls(*events, end(2))] == ["f", "g", "h"]


def test_an_id_that_comes_late_belongs_to_the_call_that_has_none() -> None:
    events = told(start(0, "", "f"), start(0, "late", "f"), args(4, "{}", "late"))
    assert events[:2] == [start(0, "call_0", "f"), args(0, "{}", "call_0")]


def test_two_calls_without_ids_under_one_number_are_told_apart_by_their_names() -> None:
    assert [call.name for call in calls(start(0, "", "f"), start(0, "", "g"))] == ["f", "g"]


def test_arguments_whose_name_never_comes_stay_as_text() -> None:
    assert told(start(0, "c1"), args(0, '{"a":1}')) == [
        ToolParseError(index=0, raw='{"a":1}', message="the call has no name"),
        TextDelta(text='{"a":1}'),
        Stop(reason="end_turn"),
    ]
    assert told(start(0, "c1")) == [Stop(reason="end_turn")]


def test_of_a_call_that_is_withdrawn_nothing_more_is_told() -> None:
    cancel = ToolCallCancel(index=0, id="c1", reason="no")
    assert told(start(0, "c1", "f"), cancel, args(0, "{}"), end(0), cancel) == [
        start(0, "c1", "f"),
        cancel,
        Stop(reason="end_turn"),
    ]
    assert told(args(0, "{}"), cancel) == [Stop(reason="end_turn")], "nobody had heard of it"
    assert told(cancel) == [Stop(reason="end_turn")]


def test_after_a_call_was_withdrawn_its_number_may_be_used_again() -> None:
    cancel = ToolCallCancel(index=0, id="c1", reason="no")
    assert calls(start(0, "c1", "g"), cancel, start(0, "c1", "f"), args(0, '{"a":1}')) == [F]


def test_a_repeated_end_of_the_arguments_is_told_when_the_call_ends() -> None:
    accumulator = Accumulator()
    for event in (start(0, "c1", "f"), args(0, "{"), args(0, '{"a":1}')):
        accumulator.push(event)
    assert accumulator.push(end(0)) == [args(0, '"a":1}', "c1"), end(0)]


def test_the_numbers_and_ids_of_another_attempt_are_its_own() -> None:
    accumulator = Accumulator()
    for event in (start(0, "c1", "f"), args(0, '{"a"')):
        accumulator.push(event)
    assert accumulator.cancel_open_calls("reset") == [
        ToolCallCancel(index=0, id="c1", reason="reset")
    ]
    accumulator.begin_attempt()
    assert accumulator.push(start(0, "c1", "f")) == [start(1, "c1", "f")]
    accumulator.push(args(0, '{"a":1}'))
    assert accumulator.tool_calls() == [F]


def test_a_call_of_which_only_arguments_had_come_is_cut_and_forgotten() -> None:
    accumulator = Accumulator()
    accumulator.push(args(0, '{"a"', "c1"))
    in_flight = accumulator.snapshot().in_flight_tool
    assert (in_flight.id, in_flight.name, in_flight.partial_args) == ("c1", "", '{"a"')
    assert accumulator.cancel_open_calls("reset") == []
    accumulator.begin_attempt()
    assert accumulator.close() == [Stop(reason="end_turn")]


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param([start(n, f"c{n}", "f") for n in range(MAX_CALLS + 1)], id="calls"),
        pytest.param([args(n, "{}") for n in range(MAX_CALLS + 1)], id="nameless"),
        pytest.param([start(n, "c", "f") for n in range(MAX_CALLS + 1)], id="numbers"),
        pytest.param([start(0, f"c{n}") for n in range(MAX_CALLS + 1)], id="ids"),
        pytest.param([start(0, f"c{n}", "f") for n in range(MAX_CALLS + 1)], id="one-number"),
    ],
)
def test_more_calls_than_any_answer_has_are_refused(flood: list[RunnerEvent]) -> None:
    with pytest.raises(CarError, match="256 tool calls") as caught:
        calls(*flood)
    assert caught.value.kind == "inference_failed"
