"""What is saved of a stream that broke, and the four ways to go on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from car_rpc.engine.interruption import (
    ContinueText,
    InFlightTool,
    InterruptSnapshot,
    PartialCall,
    SynthesizeToolUse,
    TruncateBeforeTool,
    WholeRestart,
    cut_tool_note,
    plan,
)
from car_rpc.wire.content import ToolCall

WHOLE = PartialCall("c1", "look", '{"q": 1}')
CUT = PartialCall("c2", "find", '{"q": ')


def snapshot(text: str = "", *calls: PartialCall, reasoning: str = "") -> InterruptSnapshot:
    return InterruptSnapshot.from_partials(text, reasoning, calls)


def test_a_call_with_whole_arguments_is_complete() -> None:
    assert snapshot("", WHOLE).completed_tool_calls == [
        ToolCall(id="c1", name="look", arguments={"q": 1})
    ]


@pytest.mark.parametrize("arguments", ["", "{", '{"a":', "null", "1", "tr", "[1]", '"x"', "{}{"])
def test_arguments_that_are_no_object_are_in_flight(arguments: str) -> None:
    taken = snapshot("", PartialCall("c", "f", arguments))

    assert taken.completed_tool_calls == []
    assert taken.in_flight_tool == InFlightTool(id="c", name="f", partial_args=arguments)


def test_a_call_without_a_name_is_in_flight_even_with_whole_arguments() -> None:
    taken = snapshot("", PartialCall("c", "", "{}"))

    assert taken.in_flight_tool == InFlightTool(id="c", name="", partial_args="{}")


def test_the_last_call_that_was_cut_wins() -> None:
    taken = snapshot("", PartialCall("c0", "first", ""), WHOLE, CUT)

    assert taken.in_flight_tool == InFlightTool(id="c2", name="find", partial_args='{"q": ')
    assert [call.id for call in taken.completed_tool_calls] == ["c1"]


def test_bytes_of_all_parts_are_counted() -> None:
    taken = snapshot("né", PartialCall("c", "f", "{}"), reasoning="ü")

    assert taken.bytes_received == 3 + 2 + 2
    assert taken.reasoning == "ü"


def test_nothing_received_is_absent_and_not_empty() -> None:
    assert snapshot() == InterruptSnapshot()
    assert snapshot().text is UNSET


def test_whole_calls_end_the_answer_whatever_the_text() -> None:
    assert plan(snapshot("text", WHOLE)) == SynthesizeToolUse(
        [ToolCall(id="c1", name="look", arguments={"q": 1})], None
    )


def test_a_call_cut_beside_whole_ones_is_named_for_the_next_turn() -> None:
    chosen = plan(snapshot("text", WHOLE, CUT))

    assert isinstance(chosen, SynthesizeToolUse)
    assert chosen.cancelled_tool_hint is not None
    assert "`find`" in cut_tool_note(chosen.cancelled_tool_hint.name)


def test_text_before_a_cut_call_is_continued_without_the_call() -> None:
    assert plan(snapshot("text", CUT)) == TruncateBeforeTool("text", "c2", "find")


def test_text_alone_is_continued() -> None:
    assert plan(snapshot("text")) == ContinueText("text")


@pytest.mark.parametrize("calls", [(), (CUT,)])
def test_without_text_or_whole_calls_all_starts_again(calls: tuple[PartialCall, ...]) -> None:
    assert plan(snapshot("", *calls)) == WholeRestart()


@given(
    st.text(),
    st.lists(st.builds(PartialCall, st.text(), st.text(), st.sampled_from(["{}", "", '{"a":1}']))),
)
def test_no_whole_call_is_lost_and_no_cut_one_is_run(text: str, calls: list[PartialCall]) -> None:
    taken = snapshot(text, *calls)

    whole = [call.id for call in calls if call.name and call.arguments]
    assert [call.id for call in taken.completed_tool_calls] == whole
    assert (taken.in_flight_tool is UNSET) == (len(whole) == len(calls))
